-- Keys have a name, and users make and revoke their own over the API. The gateway writes them, so that nobody
-- gives a key more rights than their own by way of PostgREST.
alter table public.api_keys add column name text not null default '' check (length(name) <= 100);

grant select (name) on public.api_keys to authenticated;
grant insert (user_id, name, prefix, sha256, scopes), update (revoked_at) on public.api_keys to gateway_service;

create policy "the gateway adds keys" on public.api_keys
  for insert to gateway_service with check (true);
create policy "the gateway revokes keys" on public.api_keys
  for update to gateway_service using (true) with check (true);
