-- Acting ------------------------------------------------------------------------------------------------------------

local FIELDS = { "gres", "min_nodes", "max_nodes", "num_tasks", "ntasks_per_node", "cpus_per_task", "min_cpus",
  "min_mem_per_node", "cpus_per_tres", "mem_per_tres",
  "time_limit", "admin_comment", "requeue", "script", "priority" }

-- Sets the fields, in this order (a function gives the value once those before it are set); when one fails, those set before it get their old value back.
local function apply(job_desc, changes)
  local former = {}
  for _, field in ipairs(FIELDS) do
    if changes[field] ~= nil then
      local value = job_desc[field]
      local ok, problem = pcall(function()
        local fresh = changes[field]
        job_desc[field] = type(fresh) == "function" and fresh(job_desc) or fresh
      end)
      if not ok then
        for done, old in pairs(former) do pcall(function() job_desc[done] = old end) end
        error(problem, 0)
      end
      former[field] = value == nil and "" or value
    end
  end
  if job_desc.script then -- srun and salloc bring their environment with them
    for name, value in pairs(changes.variables or {}) do pcall(function() job_desc.environment[name] = value end) end
  end
end

-- One byte into an existing regular file, which slurmextd watches: nothing here can block.
local function wake()
  local file = io.open(SITE.run_dir .. "/submit-wake", "r+")
  if file then
    file:write("1")
    file:close()
  end
end

-- slurmctld's code for what pcall caught: a refusal of ours, or success because our own mistakes never cost a job.
local function outcome(problem, where)
  if type(problem) == "table" and problem.refusal then
    pcall(slurm.log_user, "%s", problem.refusal)
    return problem.code or slurm.ERROR
  end
  pcall(slurm.log_error, "%s", "slurmext: " .. where .. " failed, the job passes untouched: " .. tostring(problem))
  return slurm.SUCCESS
end

local former_text, former_submit, former_modify

-- Loads the site's own script, again whenever its text changes: Slurm itself only watches this file.
local function load_former()
  if not SITE.former then return end
  local text = read_file(SITE.former)
  if not text or text == former_text then return end
  local ours_submit, ours_modify = slurm_job_submit, slurm_job_modify
  local chunk, problem = (loadstring or load)(text, "@" .. SITE.former)
  if not chunk then error(problem, 0) end
  slurm_job_submit, slurm_job_modify = nil, nil
  chunk()
  former_text, former_submit, former_modify = text, slurm_job_submit, slurm_job_modify
  slurm_job_submit, slurm_job_modify = ours_submit, ours_modify
end

function slurm_job_submit(job_desc, part_list, submit_uid)
  load_former()
  if former_submit then
    local code = former_submit(job_desc, part_list, submit_uid)
    if type(code) == "number" and code ~= slurm.SUCCESS then return code end
  end
  local changes
  local ok, problem = pcall(function()
    changes = decide(job_desc, part_list, submit_uid)
    apply(job_desc, changes)
  end)
  if not ok then return outcome(problem, "job_submit") end
  if changes.wake then pcall(wake) end
  return slurm.SUCCESS
end

-- What slurmextd decides for a job it holds stays decided: only root and SlurmUser may release, place or pin it.
-- The one hold that is the user's own is that of `sbatch --hold`. Its release gives slurmextd time to take the job over,
-- and starts the job when slurmextd is not there to do so. A release would take a later --begin
-- away, which nothing here can read any more: `begin` has it.
local function guard(job_desc, job_rec)
  local comment = job_rec.admin_comment
  if not comment or comment:sub(1, 11) ~= "slurmext/1 " or not comment:find(" held=1", 1, true) then return end
  local priority = job_desc.priority
  if type(priority) == "number" and priority ~= slurm.NO_VAL then
    if comment:find(" user_hold=1", 1, true) then
      if priority ~= 0 then
        local begin = tonumber(comment:match(" begin=(%d+)")) or 0
        job_desc.begin_time = math.max(os.time() + math.ceil(SITE.stale_s), begin)
        return true
      end
    else
      refuse("this job waits for its queue and slurmextd releases it; `slurmext job explain` says what it waits for",
        slurm.ESLURM_ACCESS_DENIED)
    end
  end
  if job_desc.req_nodes ~= nil and job_desc.req_nodes ~= "" and job_desc.req_nodes ~= job_rec.req_nodes then
    refuse("slurmextd chooses this job's nodes; submit it again with --nodelist to ask for some",
      slurm.ESLURM_ACCESS_DENIED)
  end
  if job_desc.requeue == 0 and comment:find(" ckpt=", 1, true) then
    refuse("this job was admitted as one that may be requeued; submit it again with " .. flag_name("no-preempt"),
      slurm.ESLURM_ACCESS_DENIED)
  end
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
  load_former()
  if former_modify then
    local code = former_modify(job_desc, job_rec, part_list, modify_uid)
    if type(code) == "number" and code ~= slurm.SUCCESS then return code end
  end
  if SITE.trusted_uids[modify_uid] then return slurm.SUCCESS end
  local ok, result = pcall(guard, job_desc, job_rec)
  if not ok then return outcome(result, "job_modify") end
  if result then pcall(wake) end
  return slurm.SUCCESS
end

load_former()
if slurm and slurm.log_info then slurm.log_info("%s", "slurmext: job_submit.lua loaded") end
return slurm and slurm.SUCCESS or 0
