-- A user's objects stand under the user's own prefix. Users read them with their own token, should they
-- talk to Storage themselves; they write none. Pictures are written by the gateway alone, and uploads go to
-- an address signed by the gateway for one key, type and user: a policy for inserts would let a user fill
-- the bucket past every check. Nothing grants update or delete, so rows and objects cannot drift apart.
create policy "users read objects under their own prefix" on storage.objects
  for select to authenticated
  using (
    bucket_id in ('generated-designs', 'uploads')
    and (storage.foldername(name))[1] = (select auth.uid())::text
  );
