package main

import "context"

func (b *bench) oneChange(context.Context, *worlds) error { return nil }
func (b *bench) storm(context.Context, *worlds) error     { return nil }
func (b *bench) affinity(context.Context, *worlds) error  { return nil }
