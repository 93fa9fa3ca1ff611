-- Queues ------------------------------------------------------------------------------------------------------------

local function may_use(queue, who)
  if not queue.users and not queue.accounts then return true end
  return (queue.users and queue.users[who.user]) or (queue.accounts and who.account and queue.accounts[who.account])
    or false
end

-- The queue at a path, nil when there is none. A line "a/*" stands for children that exist once a job is in them.
local function queue_at(queues, path)
  local queue = queues.queues[path]
  if queue then return queue end
  local above, name = path:match("^(.*)/([^/]+)$")
  local like = above and queues.queues[above .. "/*"]
  if like and #name <= 63 and name:match("^%w[%w._-]*$") then
    return { path = path, leaf = true, dynamic = true, name = name, max_gpus = like.max_gpus,
      over_max = like.over_max, users = like.users, accounts = like.accounts }
  end
end

-- A rule's queue for this job. A template that makes no queue of it gives nil; true as well when only slurmextd knows
-- (the user's primary group has no name here).
local function filled(template, queues, who)
  if not template:find("{", 1, true) then return template end
  local later = false
  local path = template:gsub("{(%w+)}", function(name)
    if name == "group" and not who.group then later = true end
    return who[name] or ""
  end)
  if later then return nil, true end
  local queue = queue_at(queues, path)
  return queue and queue.leaf and path or nil
end

local function in_group(queues, who, name)
  local group = queues.groups[name]
  return group ~= nil and (group.users[who.user] or (group.gid ~= nil and group.gid == who.gid))
end

-- The queue of a job that names none: that of the first placement rule that matches, else the default. Nil and true when
-- slurmextd has to find it.
local function implied_queue(queues, who)
  for _, rule in ipairs(queues.rules) do
    if (rule.user == "" or rule.user == who.user) and (rule.account == "" or rule.account == who.account)
      and (rule.partition == "" or rule.partition == who.partition)
      and (rule.group == "" or in_group(queues, who, rule.group)) then
      local path, later = filled(rule.queue, queues, who)
      if path or later then return path, later end
    end
  end
  if queues.default then return filled(queues.default, queues, who) end
end

-- The path as this user would write it: his own, where children exist once a job is in them.
local function shown(queue, who)
  return (queue.path:gsub("/%*$", function() return "/" .. who.user end))
end

local function edit_distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local above = row[j]
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      row[j] = math.min(above + 1, row[j - 1] + 1, diagonal + cost)
      diagonal = above
    end
  end
  return row[#b]
end

-- "did you mean X? you may use A, B, C", only from the queues this user may use.
local function suggestion(queues, who, wanted)
  local names, nearest, distance = {}, nil, math.max(2, math.floor(#wanted / 3)) + 1
  for index, queue in ipairs(queues.order) do
    if queue.leaf and may_use(queue, who) then
      local path = shown(queue, who)
      names[#names + 1] = path
      local d = index <= 500 and #wanted <= 100 and edit_distance(wanted, path) or distance
      if d < distance then nearest, distance = path, d end
    end
  end
  if #names == 0 then return "there is no queue you may use; ask your administrators" end
  local text = nearest and "did you mean " .. nearest .. "? " or ""
  local more = #names > 8 and string.format(" and %d more (slurmext queue list)", #names - 8) or ""
  return text .. "you may use " .. table.concat(names, ", ", 1, math.min(#names, 8)) .. more
end

local function check_queue(path, given, queues, who, gpus)
  local what = given and flag_name("queue") .. "=" .. path or "default queue " .. path
  local queue = queue_at(queues, path)
  if not queue then refuse(what .. ": no such queue; " .. suggestion(queues, who, path)) end
  if not queue.leaf then
    local below = {}
    for _, other in ipairs(queues.order) do
      if other.leaf and other.path:sub(1, #path + 1) == path .. "/" and may_use(other, who) then
        below[#below + 1] = shown(other, who)
      end
    end
    refuse(what .. ": jobs go into a queue without queues below it; "
      .. (#below > 0 and "choose one of " .. table.concat(below, ", ", 1, math.min(#below, 8))
        or suggestion(queues, who, path)))
  end
  if not may_use(queue, who) then
    refuse(string.format("%s: user %s%s may not use it; %s", what, who.user,
      who.account and " (account " .. who.account .. ")" or "", suggestion(queues, who, path)), slurm.ESLURM_ACCESS_DENIED)
  end
  if given and queue.dynamic and queue.name ~= who.user and implied_queue(queues, who) ~= path then
    refuse(string.format("%s: that queue is not yours, %s is; leave %s out and you get the one that is meant for you",
      what, path:match("^(.*/)") .. who.user, flag_name("queue")), slurm.ESLURM_ACCESS_DENIED)
  end
  if gpus and queue.max_gpus and gpus > queue.max_gpus and queue.over_max ~= "hold" then
    refuse(string.format("%s: the job asks for %d GPUs and the queue may never have more than %d; ask for at most %d",
      what, gpus, queue.max_gpus, queue.max_gpus), slurm.ESLURM_ACCOUNTING_POLICY)
  end
end

