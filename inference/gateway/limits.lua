-- Slots of rates and places of gates, for one gateway and many requests in one call.
--
-- KEYS[1]  the live gateways: a sorted set, id by end of life
-- KEYS[n]  rates ("debt at": see gcra.py) and gates (a hash: places by gateway)
-- ARGV[1]  {gateway, live_ms, holds, groups} as JSON
--   holds   [key, places]: all that this gateway holds of a gate. It is not "one more" but the
--           whole number, so that a lost message is put right by the next.
--   groups  lists of items, granted all or none:
--           [key, per_minute, burst, need, want] of a rate, [key, cap, want] of a gate
-- Returns {known, live, groups, state}: whether this gateway was alive before; how many are;
--   by group {1, granted...} or {0, positions of what lacks...}; by key from the second on
--   a rate's debt or a gate's places at other gateways.

local SLOT = 60000000
local batch = cjson.decode(ARGV[1])
local me = batch.gateway
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

local function whole(number)
    return string.format('%.0f', number)
end

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now_ms))
local is_known = redis.call('ZSCORE', KEYS[1], me)
redis.call('ZADD', KEYS[1], whole(now_ms + batch.live_ms), me)
redis.call('PEXPIRE', KEYS[1], whole(batch.live_ms))

local rates, gates, state = {}, {}, {}

local function open_rate(key, per_minute)
    if not rates[key] then
        local debt = 0
        local text = redis.call('GET', KEYS[key])
        if text then
            local old, at_us = string.match(text, '^(%d+) (%d+)$')
            debt = math.max(0, old - math.max(0, now_us - at_us) * per_minute)
        end
        rates[key] = {debt = debt, per_minute = per_minute}
    end
    return rates[key]
end

local function open_gate(key, mine)
    local others = 0
    local fields = redis.call('HGETALL', KEYS[key])
    for at = 1, #fields, 2 do
        if fields[at] ~= me then
            if redis.call('ZSCORE', KEYS[1], fields[at]) then
                others = others + fields[at + 1]
            else
                redis.call('HDEL', KEYS[key], fields[at])
            end
        end
    end
    gates[key] = {mine = mine, others = others}
end

local function find_lacking(group)
    local lacking = {}
    for position, item in ipairs(group) do
        local has_room
        if #item == 5 then
            local rate = open_rate(item[1], item[2])
            has_room = rate.debt <= math.max(0, item[3] - item[4]) * SLOT
        else
            local gate = gates[item[1]]
            has_room = gate.mine + gate.others < item[2]
        end
        if not has_room then
            lacking[#lacking + 1] = position
        end
    end
    return lacking
end

local function grant(item)
    if #item == 5 then
        local rate = rates[item[1]]
        local room = math.floor((item[3] * SLOT - rate.debt) / SLOT)
        local granted = math.max(item[4], math.min(item[5], room))
        rate.debt = rate.debt + granted * SLOT
        return granted
    end
    local gate = gates[item[1]]
    local granted = math.min(item[3], item[2] - gate.mine - gate.others)
    gate.mine = gate.mine + granted
    return granted
end

for _, hold in ipairs(batch.holds) do
    open_gate(hold[1], hold[2])
end

local answers = {}
for number, group in ipairs(batch.groups) do
    local answer = find_lacking(group)
    if #answer > 0 then
        table.insert(answer, 1, 0)
    else
        answer = {1}
        for position, item in ipairs(group) do
            answer[position + 1] = grant(item)
        end
    end
    answers[number] = answer
end

for key, rate in pairs(rates) do
    -- It is forgotten when its debt is paid: a rate without debt is a rate that is not there.
    local left_ms = math.ceil(rate.debt / rate.per_minute / 1000)
    if left_ms > 0 then
        redis.call('SET', KEYS[key], whole(rate.debt) .. ' ' .. whole(now_us), 'PX', whole(left_ms))
    end
    state[key - 1] = rate.debt
end
for key, gate in pairs(gates) do
    if gate.mine > 0 then
        redis.call('HSET', KEYS[key], me, gate.mine)
        redis.call('PEXPIRE', KEYS[key], whole(batch.live_ms))
    else
        redis.call('HDEL', KEYS[key], me)
    end
    state[key - 1] = gate.others
end

return {is_known and 1 or 0, redis.call('ZCARD', KEYS[1]), answers, state}
