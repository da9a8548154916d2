-- Version 5: where trials of a search with `halving` paused, a row for each pause. `rung` are the epochs after which trials
-- pause there, `epoch` those that this one's trainings had had, of `epochs` in all. `scores` are its metrics there by
-- target, `measured` what was measured of its model without the trainings; `seconds` those that it took up to there.

CREATE TABLE pauses (
  run VARCHAR, trial INTEGER, rung INTEGER, epoch INTEGER, epochs INTEGER, step VARCHAR, scores JSON, measured JSON,
  seconds DOUBLE, paused TIMESTAMP
);
