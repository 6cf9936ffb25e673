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

dofile(os.getenv("BENCH_CONFIGS") .. "/result.lua")
