/* Enough of Slurm's spank.h to compile the plugin without Slurm. */
#include <slurm/slurm_version.h>
#include <slurm/slurm_errno.h>
typedef struct spank_handle *spank_t;
typedef slurm_err_t spank_err_t;
typedef enum spank_context { S_CTX_ERROR, S_CTX_LOCAL, S_CTX_REMOTE, S_CTX_ALLOCATOR } spank_context_t;
enum { ESPANK_SUCCESS = 0 };
typedef int (*spank_opt_cb_f)(int, const char *, int);
struct spank_option { char *name; char *arginfo; char *usage; int has_arg; int val; spank_opt_cb_f cb; };
int slurm_spank_init(spank_t, int, char **);
int slurm_spank_init_post_opt(spank_t, int, char **);
int slurm_spank_task_init(spank_t, int, char **);
spank_context_t spank_context(void);
spank_err_t spank_option_register(spank_t, struct spank_option *);
spank_err_t spank_setenv(spank_t, const char *, const char *, int);
spank_err_t spank_unsetenv(spank_t, const char *);
spank_err_t spank_job_control_setenv(spank_t, const char *, const char *, int);
void slurm_error(const char *, ...);
void slurm_debug(const char *, ...);
#define SPANK_PLUGIN(n, v) const char plugin_name[] = #n; const unsigned int spank_plugin_version = v;
