-- Supabase's Realtime tells users of their jobs' moves; the policy for SELECT decides who hears what.
-- The columns are those that users may read, but for generated ones, which Postgres before 18 cannot publish.
do $$
begin
  if exists (select from pg_publication where pubname = 'supabase_realtime' and not puballtables)
     and not exists (
       select from pg_publication_tables
       where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = 'generation_jobs')
  then
    alter publication supabase_realtime add table public.generation_jobs (
      id, user_id, parent_id, retry_of, task, status, stage, priority, prompt_input, prompt_enhanced,
      prompt_final, prompt_negative, enhance_status, style, model, width, height, num_images, seed, params, loras,
      "references", visibility, metadata, result_url, output_bytes, error_code, error_message, error_stage,
      error_retryable, processing_time_ms, queue_time_ms, gpu_seconds, estimated_usd_micros, cost_usd_micros,
      step, steps, version, attempt, progress_seq, created_at, started_at, finished_at, expires_at);
  end if;
end $$;
