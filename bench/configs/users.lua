-- The requests of a thousand users in turn, each with a token of its own; the tokens are the lines of a file.
local requests = {}
local turn = 0

function init(args)
  for token in io.lines(os.getenv("BENCH_TOKENS")) do
    wrk.headers["Authorization"] = "Bearer " .. token
    requests[#requests + 1] = wrk.format(nil, "/")
  end
end

function request()
  turn = turn % #requests + 1
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
