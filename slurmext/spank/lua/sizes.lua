-- Sizes -------------------------------------------------------------------------------------------------------------

local function size_named(name, queues)
  local what = flag_name("size") .. "=" .. name
  if not queues or #queues.size_order == 0 then
    refuse(what .. (queues and ": this site has no sizes" or ": sizes are part of a policy, and none is in force here; an "
      .. "admin applies one with `slurmext policy apply FILE`") .. "; ask for what the job needs, for example "
      .. "--gpus-per-node=1 --time=4:00:00")
  end
  if queues.sizes[name] then return queues.sizes[name] end
  local known, nearest, distance = {}, nil, math.max(1, math.floor(#name / 3)) + 1
  for _, size in ipairs(queues.size_order) do
    if size.sliced then
      known[#known + 1] = string.format("%s (%s)", size.name, size.slices.slice or "a part of a GPU")
    else
      known[#known + 1] = string.format("%s (%s%d GPU%s)", size.name, size.nodes > 1 and size.nodes .. " x " or "",
        size.gpus, size.gpus > 1 and "s" or "")
    end
    local d = edit_distance(name, size.name)
    if d < distance then nearest, distance = size.name, d end
  end
  refuse(string.format("%s: no such size; %ssizes: %s", what, nearest and "did you mean " .. nearest .. "? " or "",
    table.concat(known, ", ")))
end

local function type_in(tres)
  return tostring(tres or ""):match("gpu:([%a_][%w_.-]*)")
end

-- "gres:gpu:8" or "gres/gpu:8", as this release spells it: like in what the job asks for already.
local function per_gpu(count)
  return function(job_desc)
    local asked = ""
    for _, field in ipairs({ "tres_per_node", "tres_per_job", "tres_per_task", "tres_per_socket" }) do
      asked = asked .. tostring(job_desc[field] or "")
    end
    return string.format("%sgpu:%d", asked:match("gres[:/]") or "gres:", count)
  end
end

-- What the size asks for where the user says nothing himself: field -> value. GPUs for the whole job or for each task
-- are a layout of his own, which nothing is added to.
local function fill_in(size, job_desc, options)
  local fill = {}
  local own = gpus_in(job_desc.tres_per_job) or gpus_in(job_desc.tres_per_task) or gpus_in(job_desc.tres_per_socket)
  local on_node = gpus_in(job_desc.tres_per_node)
  local nodes = tasks_or(job_desc.min_nodes, nil)
  local typed = type_in(job_desc.tres_per_job) or type_in(job_desc.tres_per_node) or type_in(job_desc.tres_per_task)
  local sliced = size.sliced and not own and not on_node
  if size.types and not options.types and not typed then options.types = size.types end
  if sliced then
    local given
    for _, key in ipairs(SLICE_KEYS) do given = given or options[key] end
    if not given then
      -- the job's environment says it as the options would: what runs in it knows its slice, and that it must have one
      fill.variables, options.filled = {}, true
      for _, option in ipairs(OPTIONS) do
        local value = size.slices[option.key]
        if value then options[option.key], fill.variables[option.env] = value, value end
      end
    end
  end
  if not own then
    if not on_node and not sliced then
      local one_type = options.types and not options.types:find(",", 1, true) and options.types ~= "any"
      local gpu = one_type and "gpu:" .. options.types or "gpu"
      local other = job_desc.tres_per_node
      fill.gres = (other and other ~= "" and other .. "," or "") .. string.format("%s:%d", gpu, size.gpus)
    end
    if not nodes then fill.min_nodes, fill.max_nodes = size.nodes, size.nodes end
    if size.tasks and not tasks_or(job_desc.num_tasks, nil) and number_or(job_desc.ntasks_per_node, 0) == 0 then
      fill.ntasks_per_node, fill.num_tasks = size.tasks, size.tasks * (nodes or size.nodes)
    end
  end
  if size.cpus and not job_desc.cpus_per_tres and not number_or(job_desc.cpus_per_task, nil) then
    if sliced then
      local tasks = tasks_or(fill.num_tasks, nil) or tasks_or(job_desc.num_tasks, nil) or nodes or size.nodes
      fill.cpus_per_task, fill.min_cpus = size.cpus, size.cpus * tasks
    else
      fill.cpus_per_tres = per_gpu(size.cpus)
    end
  end
  if size.memory_mib and not job_desc.mem_per_tres and not job_desc.min_mem_per_node and not job_desc.min_mem_per_cpu then
    if sliced then fill.min_mem_per_node = size.memory_mib else fill.mem_per_tres = per_gpu(size.memory_mib) end
  end
  local time_limit = job_desc.time_limit
  if size.minutes and (time_limit == nil or time_limit == slurm.NO_VAL) then fill.time_limit = size.minutes end
  return fill
end

-- The job as it will be: what is filled in over what it says.
local function with(fill, job_desc)
  local tres = fill.gres and { tres_per_node = fill.gres } or {}
  return setmetatable({}, { __index = function(_, field)
    local value = tres[field]
    if value == nil then value = fill[field] end
    if value == nil then value = job_desc[field] end
    return value
  end })
end

