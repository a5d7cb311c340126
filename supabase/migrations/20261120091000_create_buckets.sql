-- Both private: public pictures are served by the gateway at an unguessable address.
insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
values
  ('generated-designs', 'generated-designs', false, 67108864, array['image/png', 'image/jpeg', 'image/webp']),
  ('uploads', 'uploads', false, 52428800, array['image/png', 'image/jpeg', 'image/webp'])
on conflict (id) do update set
  public = excluded.public,
  file_size_limit = excluded.file_size_limit,
  allowed_mime_types = excluded.allowed_mime_types;
