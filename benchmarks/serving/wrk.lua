-- Posts one body from every connection. THINK_MS > 0: each connection pauses for so long on average (exponential) before a request,
-- which makes an arrival rate out of a number of connections. Prints one line of JSON at the end.
wrk.method = "POST"
local file = io.open(os.getenv("BODY"), "rb")
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "application/json"
if os.getenv("JSON_BYTES") ~= "" then  -- binary data follows so many bytes of JSON
  wrk.headers["Content-Type"] = "application/octet-stream"
  wrk.headers["Inference-Header-Content-Length"] = os.getenv("JSON_BYTES")
end
if os.getenv("API_KEY") ~= "" then wrk.headers["Authorization"] = "Bearer " .. os.getenv("API_KEY") end
local think = tonumber(os.getenv("THINK_MS"))
if think > 0 then
  math.randomseed(7)
  function delay() return math.floor(-think * math.log(1 - math.random()) + 0.5) end
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.6f,"errors":%d,"refused":%d,"p50_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f}\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout, e.status,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
