-- `tenkaigen doctor` tells what is pending without the owner's login.
grant usage on schema supabase_migrations to gateway_service;
grant select (version, name) on supabase_migrations.schema_migrations to gateway_service;
