-- One header is another one in each request: 4,099 spellings go round, a number that shares no divisor with the
-- connections, and more than anybody will remember.
local requests = {}
local turn = 0

function init(args)
  for number = 1, 4099 do
    wrk.headers["X-Trace"] = string.format("%04d-7c5993887d599cfa24f18b1149d2d328-%016d", number, number)
    requests[number] = wrk.format(nil, "/")
  end
end

function request()
  turn = turn % 4099 + 1
  return requests[turn]
end

-- Prints what wrk counted as one JSON line, for the harness to read.
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"duration_s":%.6f,"p50_us":%.1f,"p99_us":%.1f,"failed_statuses":%d,"failed_sockets":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
