-- One row per device, metric and hour.
--
-- target = "gold.metric_1h"
-- mode = "window"
-- keys = ["gateway_id", "device_id", "metric", "unit"]
-- refresh = "5m"
-- [window]
-- kind = "tumbling"
-- size = "1h"
--
-- `windowed` holds the readings of every affected window whole, with window_start and window_end. First and last are
-- ordered by (event_time, source_seq nulls first, value) among the readings that have a number.
select
  gateway_id,
  device_id,
  metric,
  unit,
  window_start,
  window_end,
  count(*) as readings,
  avg(value) as value_avg,
  min(value) as value_min,
  max(value) as value_max,
  stddev_samp(value) as value_stddev,
  percentile_cont(0.5) within group (order by value) as value_p50,
  percentile_cont(0.95) within group (order by value) as value_p95,
  min_by(value, struct(event_time, coalesce(source_seq, -9223372036854775808), coalesce(value, 0)))
    filter (where value is not null) as value_first,
  max_by(value, struct(event_time, coalesce(source_seq, -9223372036854775808), coalesce(value, 0)))
    filter (where value is not null) as value_last
from windowed
group by gateway_id, device_id, metric, unit, window_start, window_end
