package watch

import (
	"context"
	"log/slog"
	"sync"
)

// contact says once that the API server does not answer, and once that it does again.
type contact struct {
	log  *slog.Logger
	mu   sync.Mutex
	lost bool
}

func (c *contact) note(ctx context.Context, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case err != nil && !c.lost:
		c.lost = true
		c.log.Warn("API server does not answer: keeping what is known and trying again", "err", err)
	case err == nil && c.lost:
		c.lost = false
		c.log.Info("API server answers again")
	}
}

// demote makes every record one for debugging.
type demote struct{ slog.Handler }

func (d demote) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

func (d demote) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return d.Handler.Handle(ctx, r)
}

func (d demote) WithAttrs(as []slog.Attr) slog.Handler { return demote{d.Handler.WithAttrs(as)} }
func (d demote) WithGroup(name string) slog.Handler    { return demote{d.Handler.WithGroup(name)} }
