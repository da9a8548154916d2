-- Version 4: what a search was given at its start, of trials of earlier runs; `objectives` are the values of the run's
-- goals (NULL: the trial failed), `violations` how far its requirements are from being met.

CREATE TABLE warm_starts (
  run VARCHAR, position INTEGER, from_run VARCHAR, from_trial INTEGER, point JSON, objectives JSON, violations JSON
);
