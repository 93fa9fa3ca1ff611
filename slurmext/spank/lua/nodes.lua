-- Nodes -------------------------------------------------------------------------------------------------------------

-- The most memory and CPUs that any node of these partitions (a comma list) has, as { mib, name, partition } and
-- { count, name, partition }; of all nodes where one of the partitions is not in the table. Nil while slurmextd has not
-- told.
local function read_largest(partitions)
  local text = read_file(SITE.run_dir .. "/nodes.tsv")
  if not text then return nil end
  local found = { memory = {}, cpus = {} }
  for what, most, name, partition in text:gmatch("(%w+)\t(%d+)\t([^\t\n]+)\t([^\t\n]+)") do
    if found[what] then found[what][partition] = { tonumber(most), name, partition } end
  end
  local largest = {}
  for what, of in pairs(found) do
    for name in partitions:gmatch("[^,]+") do
      local one = of[name] or of["*"]
      if one and (largest[what] == nil or one[1] > largest[what][1]) then largest[what] = one end
    end
    if not largest[what] or of["*"] and largest[what][1] == of["*"][1] then largest[what] = of["*"] end
  end
  return largest
end

-- The least of it that the job takes of one node, however its tasks are spread.
local function least_on_a_node(job_desc, sliced)
  local nodes, tasks = nodes_of(job_desc), tasks_or(job_desc.num_tasks, nil)
  local definite = sliced or tasks_or(job_desc.min_nodes, nil)
  local together = definite and tasks and math.ceil(tasks / nodes) or 1
  local cpus = math.max(1, number_or(job_desc.cpus_per_task, 1)) * math.max(1, together)
  local mib = tonumber(job_desc.min_mem_per_node)
  local per_cpu, per_gpu = tonumber(job_desc.min_mem_per_cpu), tostring(job_desc.mem_per_tres or ""):match("gpu[:=](%d+)")
  if per_cpu then mib = per_cpu * cpus end
  if per_gpu then mib = tonumber(per_gpu) * math.max(1, gpus_in(job_desc.tres_per_node) or 1) end
  return cpus, mib or 0
end

local function where(largest)
  return largest[3] == "*" and "here" or "of partition " .. largest[3]
end

-- A held job that no node could ever run would wait for ever: Slurm refuses those that it may look at, in its own words.
local function check_nodes(job_desc, sliced, partitions)
  local largest = read_largest(partitions)
  if not largest then return end
  local cpus, mib = least_on_a_node(job_desc, sliced)
  local memory, count = largest.memory, largest.cpus
  if memory and mib > memory[1] then
    local asked, there = gib(mib), gib(memory[1])
    if asked == there then asked, there = mib .. " MiB", memory[1] .. " MiB" end
    refuse(string.format("Memory specification can not be satisfied: the job asks for %s on a node, and the largest %s (%s)"
      .. " has %s; ask for at most --mem=%dM", asked, where(memory), memory[2], there, memory[1]))
  elseif count and cpus > count[1] then
    refuse(string.format("CPU count per node can not be satisfied: the job asks for %d CPUs on a node, and the largest %s"
      .. " (%s) has %d; ask for fewer --cpus-per-task, or for more nodes", cpus, where(count), count[2], count[1]))
  end
end

-- What kinds of nodes with GPUs each partition has, as { { gpus, type, nodes } … }; "*" is all of them. Nil while
-- slurmextd has not told.
local function read_gpu_nodes()
  local found
  for gpus, kind, partition, nodes in (read_file(SITE.run_dir .. "/nodes.tsv") or ""):gmatch(
    "gpus\t(%d+)\t([^\t\n]+)\t([^\t\n]+)\t(%d+)\n") do
    found = found or {}
    found[partition] = found[partition] or {}
    table.insert(found[partition], { gpus = tonumber(gpus), type = kind, nodes = tonumber(nodes) })
  end
  return found
end

-- Why these nodes could never give the job its GPUs; nil when they could. `wanted` are the types that it takes, nil: any.
local function lacks_gpus(kinds, wanted, asked, whose)
  local most, all, there, listed = 0, 0, {}, {}
  for _, kind in ipairs(kinds) do
    if not wanted or wanted[kind.type] then
      most, all = math.max(most, kind.gpus), all + kind.gpus * kind.nodes
    end
    if not there[kind.type] then listed[#listed + 1] = kind.type end
    there[kind.type] = (there[kind.type] or 0) + kind.gpus * kind.nodes
  end
  for i, kind in ipairs(listed) do listed[i] = kind .. " (" .. there[kind] .. ")" end
  local of = asked.types and " of type " .. asked.types or ""
  if all == 0 then
    return string.format("no node %s has GPUs%s; there are %s", whose, of, table.concat(listed, ", "))
  elseif asked.each > most then
    return string.format("the job asks for %d GPUs%s %s, and no node %s has more than %d; ask for at most %d, and more %s",
      asked.each, of, asked.on, whose, most, most, asked.on == "on a node" and "nodes" or "tasks")
  elseif asked.total > all then
    return string.format("the job asks for %d GPUs%s, and there are %d %s; ask for at most %d", asked.total, of, all, whose, all)
  elseif asked.nodes and asked.total > asked.nodes * most then
    return string.format("the job asks for %d GPUs%s on %d node%s, and no node %s has more than %d; leave out -N or ask for "
      .. "-N%d", asked.total, of, asked.nodes, asked.nodes == 1 and "" or "s", whose, most, math.ceil(asked.total / most))
  end
end

-- GPUs that the cluster has not are waited for in vain. Slurm refuses such jobs, too, those that it may look at.
local function check_gpus_there(job_desc, options, total, partitions)
  local known = read_gpu_nodes()
  if not known then return end
  local named = {}
  for _, field in ipairs({ "tres_per_job", "tres_per_node", "tres_per_task", "tres_per_socket" }) do
    for _, kind in ipairs(gpu_types_in(job_desc[field])) do named[#named + 1] = kind end
  end
  local wanted, types = nil, options.types or (named[1] and table.concat(named, ","))
  for kind in (types or ""):gmatch("[^,]+") do
    wanted = wanted or {}
    wanted[kind] = true
  end
  if not wanted or wanted.any then wanted, types = nil, nil end
  local on_node, of_task = gpus_in(job_desc.tres_per_node) or 0, gpus_in(job_desc.tres_per_task) or 0
  local asked = { types = types, each = math.max(on_node, of_task), total = total,
    on = on_node >= of_task and "on a node" or "for a task",
    nodes = gpus_in(job_desc.tres_per_job) and tasks_or(job_desc.max_nodes, nil) }
  if asked.nodes and asked.nodes < 1 then asked.nodes = nil end
  if options.gang_min then asked.total = 0 end -- it may start with fewer
  local why
  for name in partitions:gmatch("[^,]+") do
    -- Of a partition that the table does not have all nodes count.
    why = lacks_gpus(known[name] or known["*"], wanted, asked, known[name] and "of partition " .. name or "here")
    if not why then return end
  end
  if why then refuse("Requested node configuration is not available: " .. why) end
end
