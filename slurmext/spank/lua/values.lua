-- Values ------------------------------------------------------------------------------------------------------------

-- Names joined by the separator, nil when malformed.
local function split_names(value, separator)
  local names = {}
  for part in (value .. separator):gmatch("(.-)%" .. separator) do
    if not part:match("^" .. NAME .. "$") then return nil end
    names[#names + 1] = part
  end
  return names
end

local function is_count(value, low, high)
  if not value:match("^[1-9]%d*$") or #value > 9 then return false end
  local number = tonumber(value)
  return number >= low and number <= high
end

local UNIT_MIB = { [""] = 1, M = 1, G = 1024, T = 1024 * 1024 }

-- MiB of "18G", "512M", "1T" or "10240"; nil when malformed or too much.
local function memory_mib(value)
  local digits, unit = value:match("^([1-9]%d*)([MGT]?)$")
  if not digits or #digits > 9 then return nil end
  local mib = tonumber(digits) * UNIT_MIB[unit]
  return mib <= 16777216 and mib or nil
end

-- "30%" or "30"; nil when malformed.
local function percent(value)
  local digits = value:match("^([1-9]%d*)%%?$")
  return digits and #digits <= 3 and tonumber(digits) or nil
end

local function is_profile(name)
  local rest = name:gsub("^[1-9]%d?c%.", "", 1)
  local gb, suffix = rest:match("^[1-9]%d?g%.([1-9]%d*)gb(.*)$")
  if not gb or #gb > 4 then return false end
  return suffix == "" or (#suffix <= 17 and suffix:match("^[+-][a-z][a-z.]*$") ~= nil)
end

-- Percent and MiB of "25%,mem=10G"; nil when malformed.
local function share_of(value)
  local part, size = value:match("^([^,]*),mem=(.*)$")
  if not part then return nil end
  local share, mib = percent(part), memory_mib(size)
  if share and mib then return share, mib end
end

-- org/name@revision
local function is_model(value)
  local name, revision = value:match("^([^@]*)@(.*)$")
  if revision and (#revision > 64 or not revision:match("^[%w][%w._-]*$")) then return false end
  local parts = 0
  for part in ((name or value) .. "/"):gmatch("(.-)/") do
    parts = parts + 1
    if #part > 96 or not part:match("^[%w][%w._-]*$") or part:find("--", 1, true) then return false end
  end
  return parts <= 3
end

local FLAG = { ["1"] = true, yes = true, ["true"] = true, ["0"] = false, no = false, ["false"] = false }

local is_valid = {
  path = function(value, option) return #value <= option.high and split_names(value, "/") ~= nil end,
  checkpoint = function(value, option)
    value = value:gsub(",chain$", "")
    if value == "auto" or value == "transparent" then return true end
    local signal, seconds = value:match("^(%w+)@(.*)$")
    if not signal then return false end
    return SIGNALS[signal:gsub("^SIG", "", 1)] == true and is_count(seconds, option.low, option.high)
  end,
  directory = function(value, option)
    return #value <= option.high and value:sub(1, 1) == "/" and not value:find("%c")
      and not ("/" .. value .. "/"):find("/../", 1, true)
  end,
  names = function(value, option)
    local names, seen = split_names(value, ","), {}
    if not names or #names > option.high then return false end
    for _, name in ipairs(names) do
      if seen[name] then return false end
      seen[name] = true
    end
    return true
  end,
  count = function(value, option) return is_count(value, option.low, option.high) end,
  slice = function(value, option)
    local name, count = value:match("^([^:]*):(.*)$")
    return is_profile(name or value) and (not count or is_count(count, option.low, option.high))
  end,
  memory = function(value, option)
    local mib = memory_mib(value)
    return mib ~= nil and mib >= option.low and mib <= option.high
  end,
  percent = function(value, option)
    local number = percent(value)
    return number ~= nil and number >= option.low and number <= option.high
  end,
  share = function(value, option)
    local part = share_of(value)
    return part ~= nil and part >= option.low and part <= option.high
  end,
  models = function(value, option)
    local count, seen = 0, {}
    for model in (value .. ","):gmatch("(.-),") do
      if seen[model] or not is_model(model) then return false end
      seen[model], count = true, count + 1
    end
    return count >= option.low and count <= option.high
  end,
  flag = function(value) return FLAG[value] ~= nil end,
}

-- A refusal travels as an error value, so that it is told apart from a mistake of ours.
local function refuse(message, code)
  error({ refusal = "slurmext: " .. message, code = code }, 0)
end

local function flag_name(name) return "--" .. SITE.prefix .. name end

-- The options of the job by annotation key: from the SPANK plugin, else (REST) from the job's environment.
local function given_options(job_desc)
  local found, spank = {}, job_desc.spank_job_env
  for _, entry in pairs(spank or {}) do
    local name, value = tostring(entry):match("^(SLURMEXT_[%w_]+)=(.*)$")
    if name then found[name] = value end
  end
  local environment = job_desc.script and job_desc.environment or nil
  local options = {}
  for _, option in ipairs(OPTIONS) do
    local value = found[option.env]
    if value == nil and environment then value = environment[option.env] end
    if value ~= nil and value ~= "" then
      if not is_valid[option.kind](value, option) then
        local flag = flag_name(option.name)
        refuse(string.format("%s=%s: must be %s; for example %s", flag, value:sub(1, 200):gsub("%c", "?"), option.rule,
          option.takes_value and flag .. "=" .. option.example or flag))
      end
      if option.kind ~= "flag" or FLAG[value] then options[option.key] = value end
    end
  end
  return options
end

