package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/polder-net/polder/internal/api"
)

// askTimeout is how long the agent may take to report: it answers from memory.
const askTimeout = 5 * time.Second

// askAgent returns the report of this node's agent, as it came and as it reads.
func askAgent(e env, socket string) (json.RawMessage, api.NodeReport, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	var report api.NodeReport
	response, err := e.ask(ctx, socket, api.Request{Verb: api.Report})
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, report, fmt.Errorf("only root may ask the agent: %w", err)
	case errors.Is(err, api.ErrNoAgent):
		return nil, report, fmt.Errorf("no agent runs on this node: nobody listens at %s", socket)
	case err != nil:
		return nil, report, err
	}
	if err := json.Unmarshal(response.Report, &report); err != nil {
		return nil, report, fmt.Errorf("read agent's report: %w", err)
	}
	return response.Report, report, nil
}
