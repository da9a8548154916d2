-- Version 3: learning curves, a row for each epoch of each training; `seconds` are those since the step began.
-- `metric` names what `value` is, measured on 'validation'; `target` where a step's results differ by target.

CREATE TABLE curves (
  run VARCHAR, trial INTEGER, path VARCHAR, target VARCHAR, cached BOOLEAN, epoch INTEGER, epochs INTEGER,
  loss DOUBLE, metric VARCHAR, value DOUBLE, seconds DOUBLE
);
