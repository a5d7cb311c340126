-- A deleted picture's row stays: its recipe explains what was drawn from it. purged_at says that its bytes are gone.
alter table public.generated_assets
  add column purged_at timestamptz,
  add constraint only_deleted_pictures_are_purged check (purged_at is null or deleted_at is not null);
