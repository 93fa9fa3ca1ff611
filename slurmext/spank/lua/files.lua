-- Files of slurmextd ------------------------------------------------------------------------------------------------

local function read_file(path)
  local file = io.open(path, "r")
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text
end

local function is_alive()
  local beat = tonumber((read_file(SITE.run_dir .. "/heartbeat") or ""):match("^%d+"))
  return beat ~= nil and math.abs(os.time() - beat) <= SITE.stale_s
end

local function parse_slices(text)
  local table_of = { cards = {}, hosts = {}, profiles = {}, order = {}, types = {} }
  for line in text:gmatch("[^\n]+") do
    local fields = {}
    for field in (line .. "\t"):gmatch("(.-)\t") do fields[#fields + 1] = field end
    if fields[1] == "card" then
      table_of.cards[#table_of.cards + 1] = { type = fields[2], memory_mib = tonumber(fields[3]) or 0 }
    elseif fields[1] == "nodes" then
      local host = { count = tonumber(fields[2]) or 0, unknown = fields[3] == "?", cards = {} }
      table_of.partial = table_of.partial or host.unknown
      for kind, count in (fields[3] or ""):gmatch("([^=,]+)=(%d+)") do host.cards[kind] = tonumber(count) end
      table_of.hosts[#table_of.hosts + 1] = host
    elseif fields[1] == "profile" then
      local profile = { name = fields[2], type = fields[3], memory_mib = tonumber(fields[4]) or 0,
        compute = tonumber(fields[5]) or 0, per_card = tonumber(fields[6]) or 0 }
      if not table_of.types[profile.type] then
        table_of.types[profile.type] = {}
        table_of.order[#table_of.order + 1] = profile.type
      end
      local names = table_of.types[profile.type]
      names[#names + 1] = profile.name
      table_of.profiles[profile.name] = table_of.profiles[profile.name] or {}
      table.insert(table_of.profiles[profile.name], profile)
    end
  end
  return table_of
end

local cached_slices_text, cached_slices

-- What the GPUs here can be cut into, nil while no agent has told slurmextd.
local function read_slices()
  local text = read_file(SITE.run_dir .. "/slices.tsv")
  if not text then return nil end
  if text ~= cached_slices_text then cached_slices_text, cached_slices = text, parse_slices(text) end
  return cached_slices
end

local function set_of(list)
  local set, any = {}, false
  for name in list:gmatch("[^,]+") do set[name], any = true, true end
  return any and set or nil
end

local function parse_queues(text)
  local default, het, rules, queues, order = nil, "pass", {}, {}, {}
  local groups, group_names, sizes, size_order = {}, {}, {}, {}
  for line in text:gmatch("[^\n]+") do
    local fields = {}
    for field in (line .. "\t"):gmatch("(.-)\t") do fields[#fields + 1] = field end
    if fields[1] == "#default" then
      default = fields[2] ~= "" and fields[2] or nil
    elseif fields[1] == "#het" then
      het = fields[2]
    elseif fields[1] == "#rule" then
      rules[#rules + 1] = { user = fields[2], account = fields[3], partition = fields[4], queue = fields[5],
        group = fields[6] or "" }
    elseif fields[1] == "#group" then
      groups[fields[2]] = { gid = tonumber(fields[3]), users = set_of(fields[4] or "") or {} }
    elseif fields[1] == "#gid" then
      group_names[tonumber(fields[2])] = fields[3]
    elseif fields[1] == "#size" then
      local size = { name = fields[2], nodes = tonumber(fields[3]), gpus = tonumber(fields[4]),
        tasks = tonumber(fields[5]), cpus = tonumber(fields[6]), memory_mib = tonumber(fields[7]),
        minutes = tonumber(fields[8]), types = fields[9] ~= "" and fields[9] or nil, slices = {} }
      for index, key in ipairs(SLICE_KEYS) do
        local value = fields[9 + index]
        if value and value ~= "" then size.slices[key], size.sliced = value, true end
      end
      sizes[size.name] = size
      size_order[#size_order + 1] = size
    elseif fields[1]:sub(1, 1) ~= "#" then
      local queue = { path = fields[1], leaf = fields[2] == "1", max_gpus = tonumber(fields[3] or ""),
        over_max = fields[4], users = set_of(fields[5] or ""), accounts = set_of(fields[6] or "") }
      queues[queue.path] = queue
      order[#order + 1] = queue
    end
  end
  return { default = default, het = het, rules = rules, queues = queues, order = order, groups = groups,
    group_names = group_names, sizes = sizes, size_order = size_order }
end

local cached_text, cached_table

-- The queue table, nil when slurmextd has never written one.
local function read_queues()
  local text = read_file(SITE.run_dir .. "/queues.tsv")
  if not text then return nil end
  if text ~= cached_text then cached_text, cached_table = text, parse_queues(text) end
  return cached_table
end

