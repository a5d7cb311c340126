-- Private, like the other two. The gateway alone writes and reads: the GPU service gets signed addresses.
insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
values ('loras', 'loras', false, 2147483648, array['application/octet-stream'])
on conflict (id) do update set
  public = excluded.public,
  file_size_limit = excluded.file_size_limit,
  allowed_mime_types = excluded.allowed_mime_types;
