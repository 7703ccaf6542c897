-- Asks for one address after another (BODY names a file with a path on each line), from every connection. THINK_MS > 0: each connection
-- pauses for so long on average (exponential) before a request. Prints one line of JSON at the end.
local paths = {}
for line in io.lines(os.getenv("BODY")) do paths[#paths + 1] = line end
wrk.headers["Authorization"] = "Bearer " .. os.getenv("API_KEY")
local next_path = 0
function request()
  next_path = next_path % #paths + 1
  return wrk.format("GET", paths[next_path])
end
local think = tonumber(os.getenv("THINK_MS"))
if think > 0 then
  math.randomseed(7)
  function delay() return math.floor(-think * math.log(1 - math.random()) + 0.5) end
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.6f,"errors":%d,"refused":%d,"p50_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f,"wrong":0}\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout, e.status,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
