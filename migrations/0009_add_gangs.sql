-- Jobs on one base model are trained together by one trainer, and claimed together.

-- Set once the job's trainer died while it trained others too: nobody knows whose fault it was, so from then on the
-- job has a trainer for itself.
alter table jobs add column alone boolean not null default false;

-- In the order in which jobs join others of their base model.
create index jobs_queued_by_base_model on jobs (base_model_id, run_at, id) where state = 'queued';
