-- One row per device, metric and minute.
--
-- target = "gold.metric_1m"
-- mode = "window"
-- keys = ["gateway_id", "device_id", "metric", "unit"]
-- refresh = "each-hop"
-- [window]
-- kind = "tumbling"
-- size = "1m"
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
  max(case when place = 1 then value end) as value_first,
  max(case when place = numbers then value end) as value_last
from (
  select
    gateway_id,
    device_id,
    metric,
    unit,
    window_start,
    window_end,
    value,
    row_number() over (
      partition by gateway_id, device_id, metric, unit, window_start
      order by
        case when value is null then 1 else 0 end,
        event_time,
        source_seq nulls first,
        value nulls last
    ) as place,
    count(value) over (partition by gateway_id, device_id, metric, unit, window_start) as numbers
  from windowed
) placed
group by gateway_id, device_id, metric, unit, window_start, window_end
