// SPDX-License-Identifier: Apache-2.0
//
// The datapath's entry points. Each is a list of stages; a stage returns GO_ON, an outcome, or minus a drop's.
// docs/datapath.md walks a packet through them.
#include "deliver.h"
#include "guard.h"
#include "serve.h"
#include "socket.h"
#include "stale.h"

// From this node or another to a pod of this one.
static __always_inline int deliver(struct __sk_buff *ctx, struct packet *p, struct endpoint *ep)
{
	return ep->shaped || needs_stack(ctx, p) ? TO_STACK : redirect_to_pod(ctx, p, ep);
}

// What comes before a packet's own way: Services, which deliver what they translate, and policies. Ep and r: its
// destination's rows; the rest as in serve().
static __always_inline int check(struct __sk_buff *ctx, struct packet *p, struct endpoint *ep, const struct remote *r,
				 __u32 to_pod, __u32 outside)
{
	struct config *cfg = get_config();
	int rc = GO_ON;

	if (!cfg)
		return TO_STACK;
	if (cfg->services)
		rc = serve(ctx, p, to_pod, outside);
	if (rc == GO_ON && p->served)
		return deliver_served(ctx, p);
	if (rc != GO_ON || !is_isolated(ctx, p, cfg, ep) || is_judged_later(cfg, p, ep, r))
		return rc;
	return judge(ctx, p, ep);
}

// Where a pod's packet goes.
static __always_inline int route_from_pod(struct __sk_buff *ctx, struct packet *p)
{
	struct endpoint *ep = bpf_map_lookup_elem(&endpoints, &p->dst);
	struct remote *r = ep ? NULL : find_remote(&p->dst);
	struct config *cfg = get_config();
	int rc;

	// A pod may not speak the tunnel's protocol to a node: it would speak for the node it runs on.
	if ((ep ? !ep->ifindex : r && r->host) && cfg && p->proto == IPPROTO_UDP && p->ports &&
	    p->dport == cfg->tunnel_port)
		return -DROP_TUNNEL_INJECTION;
	rc = check(ctx, p, ep, r, ep ? ep->ifindex : r && !r->host, 0);
	if (rc != GO_ON)
		return rc;
	if (ep && ep->ifindex)
		return deliver(ctx, p, ep);
	if (!r || needs_stack(ctx, p))
		return TO_STACK;
	return to_remote(ctx, p, r);
}

// Ingress of the host's end of a pod's link: everything that a pod sends.
SEC("tc")
int from_pod(struct __sk_buff *ctx)
{
	struct packet p = {};
	int rc = parse(ctx, &p);

	if (rc == TO_STACK)
		rc = p.ethertype == bpf_htons(ETH_P_ARP) ? guard_arp(ctx, &p) : -DROP_NOT_IP;
	else if (rc == GO_ON)
		rc = guard(ctx, &p);
	if (rc == GO_ON)
		rc = route_from_pod(ctx, &p);
	if (rc == TO_SENDER || rc == REFUSED)
		bpf_redirect(ctx->ifindex, 0);
	return finish(ctx, rc);
}

static __always_inline int route_from_network(struct __sk_buff *ctx, struct packet *p, struct config *cfg)
{
	struct endpoint *ep = bpf_map_lookup_elem(&endpoints, &p->dst);
	_Bool to_pod = ep && ep->ifindex;
	int rc;

	if ((to_pod || cfg->services) &&
	    (prefix_has(&cfg->pod_cidr[0], &p->src) || prefix_has(&cfg->pod_cidr[1], &p->src)))
		return to_pod ? -DROP_SPOOFED_SOURCE : TO_STACK;
	rc = check(ctx, p, ep, NULL, to_pod, 1);
	if (rc != GO_ON)
		return rc;
	if (!to_pod || !find_remote(&p->src))
		return TO_STACK;
	return deliver(ctx, p, ep);
}

// Ingress of an uplink. What comes from outside the cluster, and is for no Service, goes through the stack both ways,
// since the stack may have translated it.
SEC("tc")
int from_network(struct __sk_buff *ctx)
{
	struct packet p = {};
	struct config *cfg = get_config();
	int rc;

	if (parse(ctx, &p) != GO_ON || !cfg)
		return finish(ctx, TO_STACK);
	rc = route_from_network(ctx, &p, cfg);
	if (rc == REFUSED)
		bpf_redirect(ctx->ifindex, 0);
	return finish(ctx, rc);
}

// Is the outer packet from a node of the cluster? Says which by the address that stands for it.
static __always_inline struct remote *find_tunnel_peer(struct __sk_buff *ctx, __u32 *vni)
{
	struct bpf_tunnel_key key = {};
	struct remote *outer;
	struct addr from;

	if (bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), 0) == 0)
		from = addr_v4(bpf_htonl(key.remote_ipv4));
	else if (bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), BPF_F_TUNINFO_IPV6) == 0)
		__builtin_memcpy(&from, key.remote_ipv6, sizeof(from));
	else
		return NULL;
	*vni = key.tunnel_id;
	outer = find_remote(&from);
	return outer && outer->host ? outer : NULL;
}

// What a node hands over of a Service's, or gives back.
static __always_inline int route_handover(struct __sk_buff *ctx, struct packet *p, const struct remote *peer)
{
	struct addr node = peer->node;
	int rc;

	if (p->from.byte[1] == HANDED_BACK)
		return take_back(ctx, p, &node);
	if (p->from.byte[1] != HANDED_OVER)
		return -DROP_UNKNOWN_TUNNEL_PEER;
	rc = is_icmp_error(p) ? follow_error(ctx, p) : take_over(ctx, p, &node);
	if (rc < 0 || p->served)
		return rc < 0 ? rc : deliver_served(ctx, p);
	return rc == TO_TUNNEL ? rc : -DROP_NO_LOCAL_BACKEND;
}

// A refusal, back to the node that the packet came from.
static __always_inline int refuse_by_tunnel(struct __sk_buff *ctx, struct config *cfg, const struct addr *node)
{
	if (set_tunnel_key(ctx, node, cfg->tunnel_vni) < 0 || set_tunnel_macs(ctx) < 0)
		return -DROP_NO_TUNNEL_PEER;
	bpf_redirect(cfg->tunnel_ifindex, 0);
	return REFUSED;
}

static __always_inline int route_from_tunnel(struct __sk_buff *ctx, struct packet *p, struct config *cfg)
{
	struct remote *peer, *inner;
	struct endpoint *ep;
	__u32 vni = 0;
	int rc;

	peer = find_tunnel_peer(ctx, &vni);
	if (peer && cfg->services && vni == cfg->tunnel_vni + HANDOVER_VNI)
		return route_handover(ctx, p, peer);
	inner = find_remote(&p->src);
	if (!peer || vni != cfg->tunnel_vni || !inner || !addr_equal(&peer->node, &inner->node))
		return -DROP_UNKNOWN_TUNNEL_PEER;
	ep = bpf_map_lookup_elem(&endpoints, &p->dst);
	rc = check(ctx, p, ep, NULL, ep && ep->ifindex, 1);
	if (rc == REFUSED)
		return refuse_by_tunnel(ctx, cfg, &peer->node);
	if (rc != GO_ON)
		return rc;
	return ep && ep->ifindex ? deliver(ctx, p, ep) : TO_STACK;
}

// Ingress of the tunnel device.
SEC("tc")
int from_tunnel(struct __sk_buff *ctx)
{
	struct packet p = {};
	struct config *cfg = get_config();

	if (!cfg || parse(ctx, &p) != GO_ON)
		return finish(ctx, -DROP_MALFORMED);
	return finish(ctx, route_from_tunnel(ctx, &p, cfg));
}

// Is this a hook where what others may have translated is judged? The node's own packets come in nowhere.
static __always_inline _Bool is_judged_here(const struct __sk_buff *ctx, const struct config *cfg)
{
	return cfg->policies && cfg->ask_conntrack && ctx->ingress_ifindex;
}

// Egress of the tunnel device, for packets of the datapath and of the stack alike: names the far end, if the datapath
// has not.
SEC("tc")
int to_tunnel(struct __sk_buff *ctx)
{
	struct bpf_tunnel_key key = {};
	struct packet p = {};
	struct config *cfg = get_config();
	struct remote *r;
	int rc;

	if (bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), 0) == 0 ||
	    bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), BPF_F_TUNINFO_IPV6) == 0)
		return TC_ACT_UNSPEC;
	if (!cfg || parse(ctx, &p) != GO_ON)
		return finish(ctx, -DROP_MALFORMED);
	rc = is_judged_here(ctx, cfg) ? judge_leaving(ctx, &p) : GO_ON;
	if (rc != GO_ON)
		return finish(ctx, rc);
	r = find_remote(&p.dst);
	if (!r || set_tunnel_key(ctx, &r->node, cfg->tunnel_vni) < 0 || set_tunnel_macs(ctx) < 0)
		return finish(ctx, -DROP_NO_TUNNEL_PEER);
	return TC_ACT_UNSPEC; // counted where it was chosen
}

// Answers of a translated flow that come through the stack, on their way out of it.
static __always_inline void follow_answer(struct __sk_buff *ctx, struct packet *p)
{
	struct work *w = get_work();

	if (!w || !is_marked(&p->dst))
		return;
	if (is_icmp_error(p))
		follow_error(ctx, p);
	else if (find_ports(ctx, p) == GO_ON && p->ports && recall_flow(ctx, p) == KNOWN &&
		 w->forward.flags & FLOW_REPLY)
		rewrite(ctx, p);
}

// Egress of the host's end of a pod's link: what comes to a pod through the stack. Where others may translate, also of
// devices that are no uplinks.
SEC("tc")
int to_pod(struct __sk_buff *ctx)
{
	struct config *cfg = get_config();
	struct packet p = {};
	int rc;

	if (!cfg || !(cfg->services || cfg->policies) || parse(ctx, &p) != GO_ON)
		return TC_ACT_UNSPEC;
	if (cfg->policies && ctx->ingress_ifindex != ctx->ifindex) {
		rc = ctx->ingress_ifindex ? judge_leaving(ctx, &p) : admit_own(ctx, &p);
		if (rc != GO_ON)
			return finish(ctx, rc);
	}
	if (cfg->services)
		follow_answer(ctx, &p);
	return TC_ACT_UNSPEC;
}

// What the node itself sends to a Service, where no socket program has replaced the Service's address.
__noinline int deliver_from_host(struct __sk_buff *ctx, struct packet *p, int rc)
{
	struct work *w = get_work();
	struct endpoint *ep;
	struct remote *r;
	struct addr dst;

	if (!p || !w)
		return TO_STACK;
	if (rc == REFUSED)
		return to_node(ctx) == TO_NODE ? REFUSED : -DROP_MALFORMED;
	if (rc != GO_ON || !p->served)
		return rc == GO_ON ? TO_STACK : rc;
	if (w->forward.flags & FLOW_RETURN)
		return go_back(ctx, p);
	dst = p->dst;
	ep = bpf_map_lookup_elem(&endpoints, &dst);
	if (ep && !ep->ifindex)
		return to_node(ctx);
	if (ep) {
		if (set_macs(ctx, &ep->pod_mac, &ep->host_mac) < 0)
			return -DROP_MALFORMED;
		bpf_redirect(ep->ifindex, 0);
		return TO_POD;
	}
	r = find_remote(&p->dst);
	return r && !r->host ? to_remote(ctx, p, r) : to_fabric(ctx, p);
}

// Egress of the loopback device, to which the cluster IPs are routed then.
SEC("tc")
int from_host(struct __sk_buff *ctx)
{
	struct config *cfg = get_config();
	struct packet p = {};

	if (!cfg || !cfg->services || parse(ctx, &p) != GO_ON)
		return TC_ACT_UNSPEC;
	return finish(ctx, deliver_from_host(ctx, &p, serve(ctx, &p, 0, 0)));
}

// Egress of an uplink: what the node itself answers, and what it asks of Services but its sockets were not led to a
// backend for. What is forwarded has been seen where it came in.
SEC("tc")
int to_network(struct __sk_buff *ctx)
{
	struct config *cfg = get_config();
	struct work *w = get_work();
	struct packet p = {};
	_Bool serves, judges;
	struct remote *r;
	int rc;

	if (!w || !cfg)
		return TC_ACT_UNSPEC;
	judges = is_judged_here(ctx, cfg);
	serves = cfg->services && (!ctx->ingress_ifindex || cfg->others_pods);
	if (!(judges || serves) || parse(ctx, &p) != GO_ON)
		return TC_ACT_UNSPEC;
	rc = judges ? judge_leaving(ctx, &p) : GO_ON;
	if (rc != GO_ON)
		return finish(ctx, rc);
	if (!serves)
		return TC_ACT_UNSPEC;
	if (!cfg->host_cookie && !ctx->ingress_ifindex)
		return finish(ctx, deliver_from_host(ctx, &p, serve(ctx, &p, 0, 0)));
	follow_answer(ctx, &p);
	if (is_service_address(cfg, &p.dst))
		return finish(ctx, -DROP_NO_SUCH_SERVICE);
	if (!p.served || !(w->forward.flags & FLOW_RETURN))
		return TC_ACT_UNSPEC;
	r = find_remote(&w->forward.node);
	return r && r->kind == REMOTE_NATIVE ? TC_ACT_UNSPEC : finish(ctx, go_back(ctx, &p));
}

char __license[] SEC("license") = "Dual BSD/GPL";
