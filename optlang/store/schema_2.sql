-- Version 2: a measurement carries the baseline's value in that very measurement, so that it agrees with the ratio.
-- NULL in measurements of before.

ALTER TABLE measurements ADD COLUMN baseline DOUBLE;
