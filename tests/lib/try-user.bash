# shellcheck shell=bash
try_user() { :; }
