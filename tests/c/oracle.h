/* The LSTM forward and backward through time as plain loops in double precision. */
#ifndef BPTT_TEST_ORACLE_H
#define BPTT_TEST_ORACLE_H

#include "arrays.h"

/* Fills all the results from the inputs; every array is there, zeros where a problem leaves one out. */
void oracle_run(const sizes *s, double *const a[ARRAYS]);

#endif
