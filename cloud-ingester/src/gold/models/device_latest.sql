-- The newest reading of each device and metric.
--
-- target = "gold.device_latest"
-- mode = "latest"
-- keys = ["gateway_id", "device_id", "metric", "unit"]
-- refresh = "each-hop"
--
-- `readings` holds, for each affected key, every reading at its newest event time. Newest is the last by (event_time,
-- source_seq nulls first, value, value_text); the id decides between readings that are equal in all of these.
select
  gateway_id,
  device_id,
  metric,
  unit,
  value,
  value_text,
  value_kind,
  event_time,
  received_time,
  reading_id
from (
  select
    gateway_id,
    device_id,
    metric,
    unit,
    value,
    value_text,
    value_kind,
    event_time,
    received_time,
    reading_id,
    row_number() over (
      partition by gateway_id, device_id, metric, unit
      order by
        event_time desc,
        source_seq desc nulls last,
        value desc nulls last,
        value_text desc nulls last,
        reading_id desc
    ) as place
  from readings
) placed
where place = 1
