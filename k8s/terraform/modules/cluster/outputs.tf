output "name" {
  description = "Name of the cluster."
  value       = google_container_cluster.this.name
}

output "id" {
  description = "Id of the cluster; pools are made in it."
  value       = google_container_cluster.this.id
}

output "workload_pool" {
  description = "Pool of identities that pods of the cluster belong to."
  value       = google_container_cluster.this.workload_identity_config[0].workload_pool
}
