-- Words for what operators, conditions and deadlines do. Alone in their migration: a transaction may not use what it adds.

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
