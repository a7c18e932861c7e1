-- What was expected of each device on each day of UTC, and what came.
--
-- target = "gold.device_health"
-- mode = "window"
-- keys = ["gateway_id", "device_id"]
-- refresh = ["1h", "final"]
-- source = ["silver.readings", "silver.quarantine"]
-- [window]
-- kind = "tumbling"
-- size = "1d"
--
-- Expected: for each metric one reading per interval, all day long; the interval is the catalogue's, else the median one
-- of that day. Availability: the share of the day's minutes with a reading. Lateness: seconds from a reading's own time to
-- its arrival at the hub.
select
  gateway_id,
  device_id,
  window_start,
  window_end,
  cast(count(distinct case when not rejected then metric end) as double)
    * (cast(unix_micros(window_end) as double) - cast(unix_micros(window_start) as double))
    / 1000000
    / nullif(coalesce(max(expected_interval_s), median(interval_s)), 0) as expected,
  count(case when not rejected then 1 end) as received,
  count(case when rejected then 1 end) as rejected,
  cast(count(distinct case when not rejected then date_trunc('minute', event_time) end) as double)
    * 60000000
    / (cast(unix_micros(window_end) as double) - cast(unix_micros(window_start) as double)) as availability,
  percentile_cont(0.95) within group (order by lateness_s) as lateness_p95_s
from (
  select
    gateway_id,
    device_id,
    metric,
    window_start,
    window_end,
    event_time,
    rejected,
    expected_interval_s,
    case
      when not rejected
      then cast(
        unix_micros(event_time) - lag(unix_micros(event_time)) over (
          partition by gateway_id, device_id, metric, rejected, window_start
          order by event_time
        ) as double
      ) / 1000000
    end as interval_s,
    case
      when not rejected
      then cast(unix_micros(enqueued_time) - unix_micros(event_time) as double) / 1000000
    end as lateness_s
  from windowed
) spaced
group by gateway_id, device_id, window_start, window_end
