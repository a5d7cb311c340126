-- Two login roles for the gateway, neither of which bypasses row-level security.
--   gateway          inherits nothing; becomes `authenticated` for one transaction to serve a user.
--   gateway_service  moves jobs; sees what its own policies and grants name, in every user's rows.
-- Passwords are set outside the migrations (`tenkaigen migrate`).
create schema if not exists private;
revoke all on schema private from public;

do $$
begin
  if not exists (select from pg_roles where rolname = 'gateway') then
    create role gateway login noinherit nobypassrls;
  end if;
  if not exists (select from pg_roles where rolname = 'gateway_service') then
    create role gateway_service login noinherit nobypassrls;
  end if;
end $$;

grant authenticated to gateway;
grant usage on schema public, private to gateway_service;
