-- The tables, version 1. No primary keys: their indexes made a file thirty times larger; the writer checks uniqueness.
-- Times are UTC; seconds, bytes and ratios are plain numbers.

CREATE TABLE optlang (version INTEGER, journal VARCHAR, drained BIGINT, views VARCHAR);

CREATE TABLE studies (study VARCHAR, title VARCHAR, file VARCHAR);

CREATE TABLE runs (
  run VARCHAR, study VARCHAR, meaning VARCHAR, inputs JSON, seed BIGINT, text VARCHAR, plan JSON, started TIMESTAMP
);

CREATE TABLE sessions (
  session VARCHAR, run VARCHAR, started TIMESTAMP, finished TIMESTAMP, why VARCHAR,
  machine JSON, versions JSON, git JSON, optlang VARCHAR
);

CREATE TABLE trials (
  run VARCHAR, trial INTEGER, session VARCHAR, state VARCHAR, reason VARCHAR, error VARCHAR, origin VARCHAR,
  in_space BOOLEAN, alone VARCHAR, target VARCHAR, runtime VARCHAR, point JSON, notes JSON, violations JSON,
  sampler_state JSON, started TIMESTAMP, finished TIMESTAMP, seconds DOUBLE
);

CREATE TABLE steps (
  run VARCHAR, trial INTEGER, position INTEGER, path VARCHAR, technique VARCHAR, settings JSON,
  key VARCHAR, cached BOOLEAN, started TIMESTAMP, seconds DOUBLE, worker VARCHAR
);

CREATE TABLE measurements (
  run VARCHAR, trial INTEGER, pass INTEGER, target VARCHAR, metric VARCHAR, value DOUBLE, unit VARCHAR, n BIGINT,
  low DOUBLE, high DOUBLE, ratio DOUBLE, ratio_low DOUBLE, ratio_high DOUBLE, measured TIMESTAMP
);

CREATE TABLE artifacts (
  run VARCHAR, trial INTEGER, target VARCHAR, path VARCHAR, format VARCHAR, bytes BIGINT, sha256 VARCHAR,
  files JSON, inputs JSON, outputs JSON, about JSON
);
