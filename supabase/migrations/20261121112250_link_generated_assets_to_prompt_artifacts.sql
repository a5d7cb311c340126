-- Which prompt a picture was made from; pictures from before have none.
alter table public.generated_assets
  add column prompt_artifact_id uuid references public.prompt_artifacts (id) on delete set null;
create index generated_assets_by_prompt_artifact on public.generated_assets (prompt_artifact_id)
  where prompt_artifact_id is not null;
