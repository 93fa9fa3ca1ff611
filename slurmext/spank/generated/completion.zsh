#compdef sbatch salloc srun
# Generated from slurmext/options/ by `python -m slurmext.options generate`; do not edit.
# zsh completion for slurmext's options of sbatch, salloc and srun.
(( $+functions[_slurmext_queues] )) || _slurmext_queues() {
  local -a queues
  queues=(${(f)"$(slurmext queue list -n -P -o Queue 2>/dev/null)"})
  compadd -a queues
}

local p="${SLURMEXT_OPTION_PREFIX-}"
_arguments -S \
  "--${p}queue=:path:_slurmext_queues" \
  "--${p}ckpt=-::auto|transparent|SIGNAL@SECONDS[,chain]:" \
  "--${p}ckpt-dir=:dir:_directories" \
  "--${p}gpu-types=:type[,type...]:" \
  "--${p}gang-min=:tasks:" \
  "--${p}gpu-slice=:profile[\:N]:" \
  "--${p}gpu-mem=:size[M|G|T]:" \
  "--${p}gpu-compute=:percent:" \
  "--${p}gpu-share=:percent,mem=size:" \
  "--${p}gpu-oom-retry" \
  "--${p}size=:name:" \
  "--${p}preload=:org/model[@revision][,...]:" \
  "--${p}no-preempt" \
  '*::argument:_default'
