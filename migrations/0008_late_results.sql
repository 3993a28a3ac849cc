-- An answer that came after its attempt had ended is in the log too; `detail` says how the attempt would have gone.
ALTER TYPE event_type ADD VALUE 'step.answered_late';
