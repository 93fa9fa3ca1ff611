-- Deciding ----------------------------------------------------------------------------------------------------------

local function default_partition(part_list)
  for name, partition in pairs(part_list or {}) do
    if partition.flag_default == 1 then return name end
  end
end

local function in_managed_partition(job_desc, part_list)
  if SITE.every_partition then return true end
  local partition = job_desc.partition or default_partition(part_list) or ""
  for name in partition:gmatch("[^,]+") do
    if SITE.partitions[name] then return true end
  end
  return false
end

local function percent_encoded(value)
  return (tostring(value):gsub("[^%w_.:/@,+-]", function(c) return string.format("%%%02X", c:byte()) end))
end

local KEYS = { "queue", "ckpt", "ckpt_dir", "types", "slice", "gpu_mem", "gpu_compute", "share", "oom", "size", "preload", "gang_min", "preempt", "user_hold", "begin", "note", "held" }

local function annotation(values)
  local words = { "slurmext/1" }
  for _, key in ipairs(KEYS) do
    if values[key] then words[#words + 1] = key .. "=" .. percent_encoded(values[key]) end
  end
  return table.concat(words, " ")
end

-- What stays of the site's own comment on a job.
local function kept(comment)
  return comment and #comment <= 200 and not comment:find("slurmext/1", 1, true) and comment or nil
end

-- A component of a heterogeneous job. Slurm starts all of them together and by itself: queues do not take such a job.
local function check_het(options)
  local queues = read_queues()
  if options.queue then
    refuse(string.format("%s=%s: queues do not take heterogeneous jobs; leave it out (and SLURMEXT_QUEUE) and Slurm "
      .. "alone starts the job, or submit one job of equal tasks", flag_name("queue"), options.queue))
  elseif queues and queues.het == "refuse" then
    refuse("heterogeneous jobs with GPUs are not taken here, because they would be outside all queues; submit one job "
      .. "of equal tasks, or a job for each part")
  end
end

-- A job of --ckpt=transparent runs under a program that saves it from outside; that finds the job's own script after
-- a line of its own (slurmext/checkpoint/transparent/wrapper.py).
local function keep_transparent(options, job_desc, changes)
  if not (options.ckpt or ""):find("^transparent") then return end
  local flag = flag_name("ckpt") .. "=" .. options.ckpt
  local auto = flag_name("ckpt") .. "=auto"
  if not job_desc.script then
    refuse(flag .. ": only a batch job can be saved from outside; submit it with sbatch, or use " .. auto)
  elseif tasks_or(job_desc.het_job_offset, nil) or (tasks_or(job_desc.min_nodes, 1) or 1) > 1 then
    refuse(flag .. ": only what runs on one node can be saved from outside; use " .. auto .. " and slurmext.checkpoint")
  elseif not SITE.transparent then
    refuse(flag .. ": is not set up here; `slurmext install` on the controller does that")
  end
  changes.script = table.concat({ "#!/bin/sh", "# What follows is kept by slurmext (" .. flag .. ").",
    "exec '" .. SITE.transparent:gsub("'", "'\\''") .. "' \"$0\" \"$@\"", "exit 127", "#slurmext: the job's own script",
    job_desc.script }, "\n")
end

-- What is to change in the job: field -> value, and whether slurmextd is to be woken. Reads only.
local function decide(given_desc, part_list, submit_uid)
  local options = given_options(given_desc)
  local changes = options.size and fill_in(size_named(options.size, read_queues()), given_desc, options) or {}
  local job_desc = with(changes, given_desc)
  local gpus = gpus_of(job_desc)
  if SITE.trusted_uids[submit_uid] and tostring(given_desc.name or ""):match("^slurmext%-slices%-%d+$") then
    return {} -- slurmextd's own: it holds a GPU in Slurm's books while that is cut into slices
  end
  local sliced = check_slices(options, job_desc, gpus)
  local managed = options.queue ~= nil or sliced
    or (in_managed_partition(job_desc, part_list) and (gpus ~= nil or not SITE.require_gpu))
  local comment = job_desc.admin_comment
  keep_transparent(options, job_desc, changes)
  local component = tasks_or(job_desc.het_job_offset, nil)
  -- Of a heterogeneous job only the first component has the script, and all must be ones that may be requeued.
  if options.ckpt and (job_desc.script or component) and job_desc.requeue == slurm.NO_VAL16 then changes.requeue = 1 end
  if managed and component then
    check_het(options)
    managed = false
    -- Behind all that is released to Slurm: a job at its head that waits keeps later ones of its partition from starting.
    if job_desc.priority == slurm.NO_VAL and is_alive() and read_queues() then changes.priority = 1 end
  end
  if component and options.ckpt then
    -- No queue has it, but slurmextd tells it to save near its time limit.
    changes.admin_comment = annotation({ ckpt = options.ckpt, note = kept(comment), held = "0" })
    return changes
  end
  if not managed then
    -- Nobody but us may make a job look managed.
    if comment and comment:find("slurmext/1", 1, true) then changes.admin_comment = "" end
    -- Slurm alone starts it; slurmextd brings its models to where that is expected.
    if options.preload and not gpus then
      changes.admin_comment = annotation({ preload = options.preload, note = kept(comment), held = "0" })
    end
    return changes
  end
  check_nodes(job_desc, sliced, job_desc.partition or default_partition(part_list) or "")
  local tasks = tasks_of(job_desc)
  if options.gang_min and tonumber(options.gang_min) > tasks then
    refuse(string.format("%s=%s: the job has %d task%s and cannot need more than that; for example %s=%d",
      flag_name("gang-min"), options.gang_min, tasks, tasks == 1 and "" or "s", flag_name("gang-min"), tasks))
  end
  local queues = read_queues()
  if sliced and not queues then
    refuse("a job on a part of a GPU needs a policy, and none is in force here; an admin applies one with "
      .. "`slurmext policy apply FILE`")
  end
  -- Without slurmextd there are no slices to run on. A job without GPUs waits for none: Slurm starts it at once.
  local held = sliced or (gpus ~= nil and queues ~= nil and is_alive())
  local queue = options.queue
  if queues then
    local gid, later = tonumber(job_desc.group_id), false
    local who = { user = tostring(job_desc.user_name or job_desc.user_id), gid = gid,
      group = gid and queues.group_names[gid], account = job_desc.account or job_desc.default_account,
      partition = job_desc.partition or default_partition(part_list) }
    if not queue then queue, later = implied_queue(queues, who) end
    if sliced and not queue and not later then
      refuse("a job on a part of a GPU needs a queue, and none is meant for you; name one with " .. flag_name("queue")
        .. "; " .. suggestion(queues, who, ""))
    end
    if not queue and not later then return changes end -- no queue for jobs that name none: they are left to Slurm
    if queue then check_queue(queue, options.queue ~= nil, queues, who, gpus) end
  end
  if held and not sliced then
    check_gpus_there(job_desc, options, gpus, job_desc.partition or default_partition(part_list) or "*")
  end
  changes.wake = held
  local user_hold, begin = job_desc.priority == 0, tonumber(job_desc.begin_time) or 0
  if held and not user_hold then changes.priority = 0 end
  if sliced then
    -- it runs on the nodes where its slices are, neither more nor fewer
    local nodes = nodes_of(job_desc)
    if job_desc.min_nodes ~= nodes then changes.min_nodes = nodes end
    if job_desc.max_nodes ~= nodes then changes.max_nodes = nodes end
    options.oom = options.oom and "retry"
  end
  local plain = plain_slices(options)
  changes.admin_comment = annotation({
    slice = plain.slice, gpu_mem = plain.gpu_mem, gpu_compute = plain.gpu_compute, share = plain.share,
    oom = options.oom, queue = queue, ckpt = options.ckpt, ckpt_dir = options.ckpt_dir, types = options.types,
    size = options.size, preload = options.preload, gang_min = options.gang_min, preempt = options.preempt and "no" or nil, user_hold = user_hold and "1" or nil,
    begin = user_hold and begin > os.time() and string.format("%d", begin) or nil,
    note = kept(comment),
    held = held and "1" or "0",
  })
  if #changes.admin_comment > MAX_ANNOTATION then
    refuse("the option values are too long together; shorten " .. flag_name("ckpt-dir"))
  end
  return changes
end

