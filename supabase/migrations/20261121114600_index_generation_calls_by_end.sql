-- What reports and estimates look for: the calls of a time, of a user in a time, the newest of a model.
create index generation_calls_by_end on private.generation_calls (finished_at) where finished_at is not null;
create index generation_calls_by_user on private.generation_calls (user_id, finished_at);
create index generation_calls_by_model on private.generation_calls (model, finished_at desc)
  where gpu_seconds > 0;
