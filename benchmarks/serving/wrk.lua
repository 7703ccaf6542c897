-- Posts one body from every connection. THINK_MS > 0: each connection pauses for so long on average (exponential) before a request,
-- which makes an arrival rate out of a number of connections. EXPECTED: each answer's score is
-- compared with that of the version it names. Prints one line of JSON at the end.
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
local threads = {}
function setup(thread) table.insert(threads, thread) end
wrong = 0  -- global: read from outside of the thread
local expected = {}
for version, score in string.gmatch(os.getenv("EXPECTED"), "(%d+)=([^,]+)") do expected[version] = tonumber(score) end
if next(expected) then
  local tolerance = tonumber(os.getenv("TOLERANCE"))
  function response(status, headers, body)
    if status ~= 200 then return end
    local version, score = string.match(body, '"model_version":(%d+).*"score":([^},]+)')
    local wanted = version and expected[version]
    local given = tonumber(score)
    if not wanted or not given or math.abs(given - wanted) > tolerance then wrong = wrong + 1 end
  end
end
function done(summary, latency, requests)
  local e = summary.errors
  local wrongs = 0
  for _, thread in ipairs(threads) do wrongs = wrongs + thread:get("wrong") end
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.6f,"errors":%d,"refused":%d,"p50_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f,"wrong":%d}\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout, e.status,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3, wrongs))
end
