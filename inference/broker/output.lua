-- Keep what a job has said, in order and once; the log is its account's alone.
-- KEYS: 1 the log.
-- ARGV: epoch of the lease, number of the first chunk, the most chunks, the most bytes, how long
-- it is kept in milliseconds; then each chunk with its length in characters.
-- Returns: a word (kept, gap, full, stale), and the number that is expected next.
local epoch, number = tonumber(ARGV[1]), tonumber(ARGV[2])
local chunks_max, bytes_max = tonumber(ARGV[3]), tonumber(ARGV[4])
local expected, length, size = 0, 0, 0

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last then
    local known, count = string.match(last[1], '^(%d+)-(%d+)$')
    if tonumber(known) > epoch then
        return {'stale', 0}
    end
    if tonumber(known) == epoch then
        local fields = {}
        for at = 1, #last[2], 2 do
            fields[last[2][at]] = last[2][at + 1]
        end
        expected, length, size = tonumber(count), tonumber(fields.l or 0), tonumber(fields.b or 0)
    else
        -- What an earlier run has said is worth nothing any more.
        redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
    end
end
if number > expected then
    return {'gap', expected}
end
local word = 'kept'
for at = 6, #ARGV, 2 do
    -- One that comes again is passed over.
    if number == expected then
        if expected >= chunks_max or size + #ARGV[at] > bytes_max then
            word = 'full'
            break
        end
        size, length = size + #ARGV[at], length + tonumber(ARGV[at + 1])
        expected = expected + 1
        redis.call('XADD', KEYS[1], epoch .. '-' .. expected, 't', ARGV[at], 'l', length, 'b', size)
    end
    number = number + 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {word, expected}
