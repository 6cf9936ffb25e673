-- Prints what wrk counted as one JSON line, for the harness to read.
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"duration_s":%.6f,"p50_us":%.1f,"p99_us":%.1f,"failed_statuses":%d,"failed_sockets":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
