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

