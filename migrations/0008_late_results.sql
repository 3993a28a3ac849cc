-- Records an answer that arrived after the end of its attempt in the log too; `detail` is the
-- outcome that it reported.
ALTER TYPE event_type ADD VALUE 'step.answered_late';
