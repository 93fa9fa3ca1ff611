# Generated from slurmext/options/ by `python -m slurmext.options generate`; do not edit.
# bash completion for slurmext's options of sbatch, salloc and srun, added to whatever completes them already.
_slurmext_options() {
    local prefix="${SLURMEXT_OPTION_PREFIX-}" cur="${COMP_WORDS[COMP_CWORD]}" prev="" word
    ((COMP_CWORD > 0)) && prev="${COMP_WORDS[COMP_CWORD - 1]}"
    if [[ $cur == "=" ]]; then
        cur=""
    elif [[ $prev == "=" ]] && ((COMP_CWORD > 1)); then
        prev="${COMP_WORDS[COMP_CWORD - 2]}"
    fi
    case "$prev" in
    "--${prefix}queue")
        # shellcheck disable=SC2207  # queue paths hold no blanks
        COMPREPLY=($(compgen -W "$(slurmext queue list -n -P -o Queue 2>/dev/null)" -- "$cur"))
        return
        ;;
    "--${prefix}ckpt")
        # shellcheck disable=SC2207
        COMPREPLY=($(compgen -W "auto USR1@60 USR2@60 TERM@60 INT@60 HUP@60 QUIT@60 CONT@60 URG@60 WINCH@60 XCPU@60" -- "$cur"))
        return
        ;;
    "--${prefix}ckpt-dir")
        # shellcheck disable=SC2207
        COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    esac
    if [[ -n ${_SLURMEXT_PREVIOUS[$1]-} ]]; then
        "${_SLURMEXT_PREVIOUS[$1]}" "$@"
    fi
    for word in queue= ckpt= ckpt-dir= gpu-types= gang-min= gpu-slice= gpu-mem= gpu-compute= gpu-share= gpu-oom-retry size= preload= no-preempt; do
        if [[ "--$prefix$word" == "$cur"* && $cur == -* ]]; then
            COMPREPLY+=("--$prefix$word")
        fi
    done
}

_slurmext_hook() {
    declare -gA _SLURMEXT_PREVIOUS
    local command spec
    for command in sbatch salloc srun; do
        spec="$(complete -p "$command" 2>/dev/null)"
        if [[ $spec =~ -F\ ([^ ]+) && ${BASH_REMATCH[1]} != _slurmext_options ]]; then
            _SLURMEXT_PREVIOUS[$command]="${BASH_REMATCH[1]}"
        fi
        complete -o default -o nospace -F _slurmext_options "$command"
    done
}
_slurmext_hook
