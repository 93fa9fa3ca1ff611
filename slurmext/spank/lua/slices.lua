-- Slices ------------------------------------------------------------------------------------------------------------

local SLICE_FLAGS = { slice = "gpu-slice", gpu_mem = "gpu-mem", gpu_compute = "gpu-compute", share = "gpu-share" }

local function gib(mib) return (string.format("%.2f", mib / 1024):gsub("%.?0+$", "")) .. " GiB" end

-- "h100: 1g.10gb, 2g.20gb; a30: 1g.6gb"
local function profiles_there_are(known, types)
  local parts = {}
  for _, kind in ipairs(known.order) do
    if not types or types[kind] then parts[#parts + 1] = kind .. ": " .. table.concat(known.types[kind], ", ") end
  end
  return table.concat(parts, "; ")
end

-- Who named a size knows nothing of the options that it stands for.
local function as_asked(options, what)
  return options.filled and string.format("%s=%s (%s)", flag_name("size"), options.size, what) or what
end

local function accepted_types(options)
  if not options.types then return nil end
  local types = {}
  for name in options.types:gmatch("[^,]+") do
    if name == "any" then return nil end
    types[name] = true
  end
  return types
end

-- Several sizes behind one name on the accepted types: "1g.23gb is 22 GiB on b200 and 20.5 GiB on b200x".
local function check_meaning(what, found)
  local least, most = found[1], found[1]
  for _, profile in ipairs(found) do
    if profile.memory_mib < least.memory_mib then least = profile end
    if profile.memory_mib > most.memory_mib then most = profile end
  end
  if least.memory_mib < most.memory_mib * 0.97 then
    local remedy = "say what the job needs"
    if least.type ~= most.type then
      remedy = string.format("choose with %s=%s or %s", flag_name("gpu-types"), least.type, most.type)
    end
    refuse(string.format("%s: that name means %s on one board (%s) and %s on another (%s); %s, or ask for %s=%dM", what,
      gib(least.memory_mib), least.type, gib(most.memory_mib), most.type, remedy, flag_name("gpu-mem"), least.memory_mib))
  end
end

-- At least one of the types must be here; else the list of those that are says more than any list of profiles.
local function check_types(options, known)
  local types, here, seen = accepted_types(options), {}, {}
  if known.partial then return end
  for _, card in ipairs(known.cards) do
    if not types or types[card.type] then return end
    if not seen[card.type] then here[#here + 1] = card.type end
    seen[card.type] = true
  end
  if #here > 0 then
    refuse(string.format("%s=%s: no GPU here is of %s; there are %s", flag_name("gpu-types"), options.types,
      options.types:find(",", 1, true) and "any of these types" or "that type", table.concat(here, ", ")))
  end
end

-- Whether so many on each of so many nodes would fit if nothing ran; `per_card` says how many a GPU of a type holds.
local function check_room(what, need, types, known, per_card)
  if #known.hosts == 0 then return end
  local most, enough = 0, 0
  for _, host in ipairs(known.hosts) do
    local room = host.unknown and need.per_node or 0
    for kind, count in pairs(host.cards) do
      if not types or types[kind] then room = room + count * per_card(kind) end
    end
    most = math.max(most, room)
    if room >= need.per_node then enough = enough + host.count end
  end
  if need.per_node > most then
    refuse(string.format("%s: the job wants %d of them on a node and no node can hold more than %d; ask for %s", what,
      need.per_node, most, need.remedy(most)))
  elseif need.nodes > enough then
    refuse(string.format("%s: the job asks for %d nodes, and %s here can hold %s; ask for at most --nodes=%d", what,
      need.nodes, enough == 1 and "only 1 node" or "only " .. enough .. " nodes",
      need.per_node == 1 and "that" or need.per_node .. " of them each", enough))
  end
end

local function check_profile(options, need, known)
  local name = options.slice:match("^[^:]*")
  local what = as_asked(options, flag_name("gpu-slice") .. "=" .. options.slice)
  local types, found, here = accepted_types(options), {}, profiles_there_are(known, accepted_types(options))
  for _, profile in ipairs(known.profiles[name] or {}) do
    if not types or types[profile.type] then found[#found + 1] = profile end
  end
  if #found == 0 then
    if known.partial then return end
    local where = types and "no GPU of type " .. options.types or "no GPU here"
    refuse(string.format("%s: %s has the profile %s; there are %s", what, where, name,
      here ~= "" and here or "none: " .. (types and "those" or "the GPUs here") .. " cannot be cut (ask for "
        .. flag_name("gpu-share") .. ")"))
  end
  check_meaning(what, found)
  local on_card = {}
  for _, profile in ipairs(found) do on_card[profile.type] = math.max(on_card[profile.type] or 0, profile.per_card) end
  function need.remedy(most)
    return string.format("at most %s=%s:%d, or for more nodes", flag_name("gpu-slice"), name, most)
  end
  check_room(what, need, types, known, function(kind) return on_card[kind] or 0 end)
end

local function check_memory(what, mib, options, known)
  if known.partial then return end
  local types, most, kind = accepted_types(options), 0, nil
  for _, card in ipairs(known.cards) do
    if (not types or types[card.type]) and card.memory_mib > most then most, kind = card.memory_mib, card.type end
  end
  if most == 0 then
    refuse(string.format("%s: there is no GPU of type %s whose parts can be had", what, options.types))
  end
  if mib > most then
    refuse(string.format("%s: no GPU here has so much memory; the largest (%s) has %s; ask for at most %dM, or for "
      .. "whole GPUs", what, kind, gib(most), most))
  end
end

-- So much memory and compute for each of `per_node`, by what a GPU has of both.
local function check_parts(what, mib, pct, need, options, known)
  local memory = {}
  for _, card in ipairs(known.cards) do memory[card.type] = math.max(memory[card.type] or 0, card.memory_mib) end
  function need.remedy(most) return string.format("at most %d tasks on a node, or for more nodes", most) end
  check_room(what, need, accepted_types(options), known, function(kind)
    local by_memory = mib and math.floor((memory[kind] or 0) / mib) or 100
    return math.min(by_memory, pct and math.floor(100 / pct) or by_memory)
  end)
end

-- Refuses what cannot be met; true when the job asks for a part of a GPU.
local function check_slices(options, job_desc, gpus)
  local asked = {}
  for _, key in ipairs(SLICE_KEYS) do
    if options[key] then asked[#asked + 1] = flag_name(SLICE_FLAGS[key]) .. "=" .. options[key] end
  end
  if #asked == 0 then
    if options.oom then
      refuse(flag_name("gpu-oom-retry") .. ": it is for jobs on a part of a GPU; add for example "
        .. flag_name("gpu-slice") .. "=1g.10gb")
    end
    return false
  end
  local what = as_asked(options, table.concat(asked, " "))
  if #asked > 1 and (options.slice or options.share) then
    refuse(what .. ": one of them says it all; ask for a profile, or for memory and compute, or for a share")
  end
  if gpus then
    refuse(string.format("%s: the job asks for whole GPUs as well (%d); leave out one of the two", what, gpus))
  end
  if options.gang_min then
    refuse(what .. ": a job on parts of GPUs starts whole; leave out " .. flag_name("gang-min"))
  end
  if tasks_or(job_desc.het_job_offset, nil) then
    refuse(what .. ": a heterogeneous job cannot have parts of GPUs; submit a job for each part")
  end
  local known = read_slices()
  if known then
    local nodes = nodes_of(job_desc)
    local tasks = tasks_of(job_desc)
    local need = { nodes = nodes, per_node = math.max(1, math.ceil(tasks / nodes)) }
    check_types(options, known)
    if options.slice then
      need.per_node = tonumber(options.slice:match(":(%d+)$")) or need.per_node
      check_profile(options, need, known)
    elseif options.share then
      local pct, mib = share_of(options.share)
      check_memory(what, mib, options, known)
      need.per_node = 1 -- all tasks of a node run under one share
      check_parts(what, mib, pct, need, options, known)
    else
      local mib = options.gpu_mem and memory_mib(options.gpu_mem)
      if mib then check_memory(as_asked(options, flag_name("gpu-mem") .. "=" .. options.gpu_mem), mib, options, known) end
      check_parts(what, mib, options.gpu_compute and percent(options.gpu_compute), need, options, known)
    end
  end
  return true
end

-- The slice options as slurmextd reads them: percent and MiB as plain numbers.
local function plain_slices(options)
  local share, mib
  if options.share then share, mib = share_of(options.share) end
  return {
    slice = options.slice, gpu_mem = options.gpu_mem and string.format("%d", memory_mib(options.gpu_mem)),
    gpu_compute = options.gpu_compute and string.format("%d", percent(options.gpu_compute)),
    share = share and string.format("%d,%d", share, mib),
  }
end

