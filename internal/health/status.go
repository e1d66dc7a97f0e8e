package health

import (
	"io"
	"net/http"
)

// Mode is what Polder calls itself where kube-proxy names its mode. It must be none of kube-proxy's own (iptables, ipvs,
// nftables): who is told one of those looks for rules of that sort.
const Mode = "polder"

// Status answers what kube-proxy does on its status port: /proxyMode, /metrics, and /healthz, which is only about the
// process.
func Status(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/proxyMode", text(Mode))
	mux.HandleFunc("/healthz", text("ok"))
	mux.Handle("/metrics", metrics)
	return mux
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		io.WriteString(w, s)
	}
}
