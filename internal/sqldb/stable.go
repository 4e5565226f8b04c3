package sqldb

/*
typedef struct sqlite3 sqlite3;

// Defined in the driver's copy of SQLite, and weak so that this file links by
// itself too, as cgo tries it.
int sqlite3_auto_extension(void (*entry)(void)) __attribute__((weak));
int sqlite3_db_config(sqlite3 *, int op, ...) __attribute__((weak));

#define DBCONFIG_ENABLE_QPSG 1007

static int stable_plans(sqlite3 *db, char **message, const void *api) {
	return sqlite3_db_config(db, DBCONFIG_ENABLE_QPSG, 1, (int *)0);
}

static int keep_plans_stable(void) {
	return sqlite3_auto_extension ? sqlite3_auto_extension((void (*)(void))stable_plans) : 0;
}
*/
import "C"

import "sync"

// keepPlansStable makes SQLite choose the plan of a statement once, without
// regard to the values that are bound to it. Otherwise it prepares statements
// again, at every binding, whose plan might depend on a value: many joins, and
// everything on a table with a partial index. That costs ten times the query.
// The driver has no option for it; the setting is for all connections of the
// process, and changes no result.
var keepPlansStable = sync.OnceFunc(func() { C.keep_plans_stable() })
