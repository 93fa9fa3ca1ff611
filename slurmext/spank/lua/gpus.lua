-- GPUs --------------------------------------------------------------------------------------------------------------

local function number_or(value, default)
  if type(value) ~= "number" or value >= 65534 then return default end -- NO_VAL16, NO_VAL, INFINITE
  return value
end

local function tasks_or(value, default)
  if type(value) ~= "number" or value >= 4294967294 or value == 65534 then return default end
  return value
end

-- GPUs named in a TRES string; nil = none. "gres:gpu:h100:2", "gres/gpu:2", "gres/gpu=2", "gpu" and lists of them.
local function gpus_in(tres)
  local total
  for token in tostring(tres or ""):gmatch("[^,]+") do
    local rest = token:gsub("^%s*gres[:/]", ""):match("^gpu(.*)$")
    if rest and (rest == "" or rest:match("^[:=(]")) then
      rest = rest:gsub("%(.*$", "")
      total = (total or 0) + (tonumber(rest:match("[:=](%d+)$")) or 1)
    end
  end
  return total
end

-- The types named in a TRES string, in order.
local function gpu_types_in(tres)
  local types = {}
  for token in tostring(tres or ""):gmatch("[^,]+") do
    local rest = token:gsub("^%s*gres[:/]", ""):gsub("%(.*$", ""):match("^gpu:(.+)$")
    local kind = rest and (rest:match("^([^:=]+)[:=]%d+$") or not tonumber(rest) and rest)
    if kind then types[#types + 1] = kind end
  end
  return types
end

local function nodes_of(job_desc)
  local nodes = tasks_or(job_desc.min_nodes, nil)
  if nodes then return math.max(nodes, 1) end
  local tasks, per_node = tasks_or(job_desc.num_tasks, nil), number_or(job_desc.ntasks_per_node, 0)
  if tasks and per_node > 0 then return math.ceil(tasks / per_node) end
  return 1
end

local function tasks_of(job_desc)
  local tasks = tasks_or(job_desc.num_tasks, nil)
  local gpus, each = gpus_in(job_desc.tres_per_job), gpus_in(job_desc.tres_per_task)
  if not tasks and gpus and each and each > 0 then return math.floor(gpus / each) end
  return tasks or nodes_of(job_desc) * math.max(number_or(job_desc.ntasks_per_node, 1), 1)
end

-- The fewest GPUs the job can take, as far as the request says; nil when it asks for none.
local function gpus_of(job_desc)
  local nodes, most = nodes_of(job_desc), nil
  local function consider(count, factor)
    if count then most = math.max(most or 0, count * factor) end
  end
  consider(gpus_in(job_desc.tres_per_job), 1)
  consider(gpus_in(job_desc.tres_per_node), nodes)
  consider(gpus_in(job_desc.tres_per_task), tasks_of(job_desc))
  consider(gpus_in(job_desc.tres_per_socket), nodes * math.max(number_or(job_desc.sockets_per_node, 1), 1))
  return most
end

