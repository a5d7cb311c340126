-- For development only: two users, and a comic of the first that the second may read.
-- `supabase db reset` loads it after the migrations; loading it twice changes nothing.
insert into auth.users (id, aud, role, email, raw_user_meta_data)
values
  ('00000000-0000-4000-8000-000000000001', 'authenticated', 'authenticated', 'mika@example.com',
   '{"display_name": "Mika"}'),
  ('00000000-0000-4000-8000-000000000002', 'authenticated', 'authenticated', 'ren@example.com',
   '{"display_name": "Ren"}')
on conflict do nothing;

-- Where Supabase's auth server keeps passwords, both sign in with "tenkaigen-dev". It cannot read a row whose
-- tokens are null.
do $$
begin
  if exists (select from information_schema.columns
    where table_schema = 'auth' and table_name = 'users' and column_name = 'encrypted_password')
  then
    execute $sql$
      update auth.users set
        instance_id = '00000000-0000-0000-0000-000000000000',
        encrypted_password = extensions.crypt('tenkaigen-dev', extensions.gen_salt('bf')),
        email_confirmed_at = now(), created_at = now(), updated_at = now(),
        raw_app_meta_data = '{"provider": "email", "providers": ["email"]}',
        confirmation_token = '', recovery_token = '', email_change = '', email_change_token_new = ''
      where encrypted_password is null and email in ('mika@example.com', 'ren@example.com')
    $sql$;
    execute $sql$
      insert into auth.identities (id, user_id, provider_id, provider, identity_data)
      select gen_random_uuid(), id, id::text, 'email',
        jsonb_build_object('sub', id::text, 'email', email, 'email_verified', true)
      from auth.users where email in ('mika@example.com', 'ren@example.com')
      on conflict do nothing
    $sql$;
  end if;
end $$;

insert into public.prompt_templates (id, user_id, name, text, variables, defaults)
values ('00000000-0000-4000-8000-000000000101', '00000000-0000-4000-8000-000000000001', 'Hero shot',
  '{{name}}, cinematic hero shot, {{light}}', '{name,light}', '{"light": "natural lighting"}')
on conflict do nothing;

insert into public.comic_projects (id, user_id, name, base_model, base_model_group)
values ('00000000-0000-4000-8000-000000000201', '00000000-0000-4000-8000-000000000001', 'The fox of Tenkai',
  'Qwen-Image', 'Qwen')
on conflict do nothing;
insert into public.project_members (project_id, user_id, role)
values ('00000000-0000-4000-8000-000000000201', '00000000-0000-4000-8000-000000000002', 'viewer')
on conflict do nothing;
insert into public.comic_chapters (id, project_id, name, position)
select '00000000-0000-4000-8000-000000000301', '00000000-0000-4000-8000-000000000201', 'Chapter 1', 0
where not exists (select from public.comic_chapters where id = '00000000-0000-4000-8000-000000000301');

insert into public.characters (id, user_id, project_id, name, age, gender, style, source, description, attributes)
values ('00000000-0000-4000-8000-000000000401', '00000000-0000-4000-8000-000000000001',
  '00000000-0000-4000-8000-000000000201', 'Kit', '10', 'girl', 'storybook/watercolor', 'description',
  'A girl with fox ears and a red scarf', '{"do_not_change": ["fox ears", "red scarf"]}')
on conflict do nothing;
insert into public.character_profiles (character_id, color_palette, do_not_change, source)
values ('00000000-0000-4000-8000-000000000401', '{"#c8452e","#f3e3c3"}', '{"fox ears","red scarf"}', 'fallback')
on conflict do nothing;

insert into public.comic_panels (id, chapter_id, position, prompt)
select '00000000-0000-4000-8000-000000000501', '00000000-0000-4000-8000-000000000301', 0,
  'Kit looks up at the first snow'
where not exists (select from public.comic_panels where id = '00000000-0000-4000-8000-000000000501');
insert into public.panel_characters (panel_id, character_id, position)
select '00000000-0000-4000-8000-000000000501', '00000000-0000-4000-8000-000000000401', 0
where not exists (
  select from public.panel_characters where panel_id = '00000000-0000-4000-8000-000000000501');
