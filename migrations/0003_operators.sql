-- Enum values for the effects of operators, conditions and deadlines. They are a migration of their
-- own, as a transaction cannot use an enum value that it adds.

ALTER TYPE step_state ADD VALUE 'skipped';
ALTER TYPE step_state ADD VALUE 'resolved_manually';
ALTER TYPE task_state ADD VALUE 'resolved_manually';

ALTER TYPE event_type ADD VALUE 'task.reopened';
ALTER TYPE event_type ADD VALUE 'task.resolved';
ALTER TYPE event_type ADD VALUE 'task.paused';
ALTER TYPE event_type ADD VALUE 'task.resumed';
ALTER TYPE event_type ADD VALUE 'task.planned';
ALTER TYPE event_type ADD VALUE 'step.reopened';
ALTER TYPE event_type ADD VALUE 'step.resolved';
ALTER TYPE event_type ADD VALUE 'step.skipped';
ALTER TYPE event_type ADD VALUE 'pause.set';
ALTER TYPE event_type ADD VALUE 'pause.lifted';
