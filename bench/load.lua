-- For wrk: POST to each path of a file once, then stop; what came of it as JSON, times in microseconds.
local calls, place = {}, 0

function init(arguments)
  for path in io.lines(arguments[1]) do calls[#calls + 1] = wrk.format("POST", path) end
end

function request()
  place = place + 1
  if place == #calls then wrk.thread:stop() end
  return calls[math.min(place, #calls)]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"calls": %d, "duration": %d, "failed": %d, "p50": %g, "p95": %g, "p99": %g}\n',
    summary.requests, summary.duration, errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
